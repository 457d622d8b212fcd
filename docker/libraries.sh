#!/bin/sh
# In the image's build: the Debian packages with the shared libraries that a wheel's C++ core is linked against.
set -eu
folder=$(mktemp -d)
python3 -m zipfile -e "$1" "$folder"
for library in $(find "$folder" -name '*.so' -exec ldd {} + | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | sort -u); do
    dpkg-query --search "$(realpath "$library")"
done | sed 's/:.*//' | sort -u
rm -r "$folder"
