"""Certificates for tests, made with openssl; strict enough for Python 3.13."""

from __future__ import annotations

import subprocess
from pathlib import Path

LEAF = """subjectAltName=IP:127.0.0.1
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
"""


def make_certificates(folder: Path, name: str) -> None:
    """A CA, and a certificate for 127.0.0.1 signed by it: `<name>-{ca,cert,key}.pem`."""
    paths = {part: str(folder / f"{name}-{part}.pem") for part in ("ca", "ca-key", "cert", "key", "csr", "ext")}
    Path(paths["ext"]).write_text(LEAF)

    def run(*command: str) -> None:
        subprocess.run(["openssl", *command], check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run(
        "req", "-x509", *key, "-keyout", paths["ca-key"], "-out", paths["ca"], "-days", "2",
        "-subj", f"/CN={name} CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    run("req", *key, "-keyout", paths["key"], "-out", paths["csr"], "-subj", f"/CN={name}")
    run(
        "x509", "-req", "-in", paths["csr"], "-CA", paths["ca"], "-CAkey", paths["ca-key"], "-CAcreateserial",
        "-out", paths["cert"], "-days", "2", "-extfile", paths["ext"],
    )  # fmt: skip
