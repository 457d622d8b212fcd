#!/bin/sh
# In the image's build: make /opt/dpdt with all that dpdt imports, and leave out what only building and testing need.
set -eu
torch_index=$1
pip="tools/bin/pip --python /opt/dpdt/bin/python"

python3 -m venv --without-pip /opt/dpdt
python3 - > requirements.txt <<'PYTHON'
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
print(*project["dependencies"], *extras["server"], *extras["networks"], sep="\n")
PYTHON
# torch first and alone: only it comes from another index. What it needs is found with the rest, on PyPI.
# shellcheck disable=SC2086
$pip install --no-cache-dir --no-deps -c constraints.txt ${torch_index:+--index-url "$torch_index"} torch
$pip install --no-cache-dir -c constraints.txt -r requirements.txt

cd /opt/dpdt/lib/python3*/site-packages
rm -rf torch/test torch/include torch/share torch/lib/*.a pyarrow/include pyarrow/src pyarrow/tests mlflow/server/js/node_modules
find torch/bin -type f ! -name torch_shm_manager -delete
for package in matplotlib networkx numpy opacus opt_einsum pandas pydicom scipy sklearn sympy; do
    find "$package" -type d -name tests -prune -exec rm -rf {} +
done
find . -type f \( -name '*.js.map' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h' \) -delete
