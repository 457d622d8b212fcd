# Sourced by the scripts beside it: sets `engine` to podman or docker, whichever works here, or explains and fails.
# As root (a CI machine, mostly) podman is installed where it is missing, and gets a separate store in the user's
# cache, with the settings that it needs inside another container. Everybody else's engine is used as it is.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/dpdt
engine=""

own_store() {
    mkdir -p "$cache/containers"
    printf '[storage]\ndriver = "overlay"\ngraphroot = "%s/store"\nrunroot = "%s/run"\n' \
        "$cache/containers" "$cache/containers" > "$cache/containers/storage.conf"
    {
        echo '[containers]'
        echo 'default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]'
        if [ -x /usr/lib/podman/netavark ]; then printf '[network]\nnetwork_backend = "netavark"\n'; fi
        echo '[engine]'
        if command -v runc >/dev/null; then echo 'runtime = "runc"'; fi
        echo 'cgroup_manager = "cgroupfs"'
        echo 'events_logger = "file"'
    } > "$cache/containers/containers.conf"
    export CONTAINERS_STORAGE_CONF=${CONTAINERS_STORAGE_CONF:-$cache/containers/storage.conf}
    export CONTAINERS_CONF=${CONTAINERS_CONF:-$cache/containers/containers.conf}
}

install_podman() {
    echo "Installing podman, runc, debootstrap and podman's network (Debian packages)"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends \
        podman runc debootstrap netavark aardvark-dns catatonit >/dev/null
}

if docker info >/dev/null 2>&1; then
    engine=docker
else
    if [ "$(id -u)" = 0 ]; then
        own_store
        if command -v apt-get >/dev/null &&
            ! { command -v podman && command -v debootstrap && ls /usr/lib/podman/aardvark-dns; } >/dev/null 2>&1; then
            install_podman || true
            own_store
        fi
    fi
    if podman info >/dev/null 2>&1; then
        engine=podman
    else
        echo "No container engine: neither a running docker nor podman. On Debian: sudo apt-get install podman" >&2
        exit 3
    fi
fi

need_image() { # need_image TARGET: dpdt:TARGET is there, or this says how to make it
    "$engine" image inspect "dpdt:$1" >/dev/null 2>&1 && return
    echo "There is no image dpdt:$1 here. Run first: $([ "$1" = cpu ] && echo "make image" || echo "docker/build.sh $1")" >&2
    exit 1
}
