#!/bin/sh
# Install the Debian packages that dpdt needs to build, or say which ones are missing and how to get them.
# `packages.sh tests`: those that only tests need, which skip without them.
set -eu
missing=""
need() { # need PACKAGE TEST...: TEST tells whether the package's content is there
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}
python=${PYTHON:-python3}
header() { echo "#include <stdio.h>
#include <$1>" | c++ -E -x c++ - ; }
need g++ c++ --version
need make make --version
need libjpeg-dev header jpeglib.h
need libpng-dev header png.h
need libtiff-dev header tiffio.h
need libdeflate-dev header libdeflate.h
need libopenjp2-7-dev sh -c 'ls /usr/include/openjpeg-*/openjpeg.h /usr/local/include/openjpeg-*/openjpeg.h 2>/dev/null | grep -q .'
need libcharls-dev header charls/charls.h
need python3-venv "$python" -c "import ensurepip, venv"
need python3-dev "$python" -c "import os, sysconfig; os.stat(os.path.join(sysconfig.get_paths()['include'], 'Python.h'))"
if [ "${1:-}" = tests ]; then
    missing=""
    need postgresql sh -c 'ls /usr/lib/postgresql/*/bin/initdb'
    need fuse3 sh -c 'command -v fusermount3'
    need chromium sh -c 'command -v chromium || command -v chromium-browser'
    need openssh-client sh -c 'command -v ssh-keygen'
    need texlive-latex-recommended sh -c 'command -v pdflatex && kpsewhich booktabs.sty'
    need nginx-light sh -c 'PATH=$PATH:/usr/sbin command -v nginx'
fi
[ -z "$missing" ] && exit 0

if [ "$(id -u)" = 0 ]; then as_root=""; else as_root="sudo -n"; fi
if command -v apt-get >/dev/null && { [ -z "$as_root" ] || sudo -n true 2>/dev/null; }; then
    echo "Installing Debian packages:$missing"
    export DEBIAN_FRONTEND=noninteractive
    $as_root apt-get update -qq
    # shellcheck disable=SC2086
    $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "Missing:$missing" >&2
    echo "Install them as root, for example: sudo apt-get install$missing" >&2
    echo "On another Linux they have other names. Without root: dpdt's container image, docs/containers.md" >&2
    exit 1
fi
