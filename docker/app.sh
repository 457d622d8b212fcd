#!/bin/sh
# In the image's build: dpdt below /app, its bill of materials, and one digest of all files that the image adds.
set -eu
share=/app/opt/dpdt/share/dpdt
tools/bin/pip --python /opt/dpdt/bin/python install --no-cache-dir --no-deps --root /app --ignore-installed wheel/*.whl
cp -a /app/opt /
mkdir -p "$share"
sbom/bin/cyclonedx-py environment --output-reproducible --of JSON -o python.json /opt/dpdt/bin/python
python3 sbom.py python.json dpkg-status > "$share/sbom.cdx.json"
digest=$(find /opt/dpdt -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum | cat - dpkg-status | sha256sum)
echo "contents-sha256:${digest%% *}" > "$share/image.txt"
