#!/bin/sh
# In the image's build: the Debian packages with the shared libraries that a wheel's C++ core is linked against.
set -eu
folder=$(mktemp -d)
python3 -m zipfile -e "$1" "$folder"
find "$folder" -name '*.so' -exec ldd {} + | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | sort -u > "$folder/libraries"
[ -s "$folder/libraries" ]
while read -r library; do
    file=$(realpath "$library")
    # Debian 12 installs into /usr/lib, but a few packages still say /lib.
    owner=$(dpkg-query --search "$file" 2>/dev/null || dpkg-query --search "${file#/usr}")
    echo "${owner%%:*}"
done < "$folder/libraries" > "$folder/packages"
sort -u "$folder/packages"
rm -r "$folder"
