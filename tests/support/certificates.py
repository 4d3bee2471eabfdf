"""Certificates for tests, made with openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_certificates(folder: Path, name: str) -> None:
    """A CA, and a certificate for 127.0.0.1 signed by it: `<name>-{ca,cert,key}.pem`."""
    paths = {part: str(folder / f"{name}-{part}.pem") for part in ("ca", "ca-key", "cert", "key", "csr", "ext")}
    Path(paths["ext"]).write_text("subjectAltName=IP:127.0.0.1\n")

    def run(*command: str) -> None:
        subprocess.run(["openssl", *command], check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run(
        "req",
        "-x509",
        *key,
        "-keyout",
        paths["ca-key"],
        "-out",
        paths["ca"],
        "-days",
        "2",
        "-subj",
        f"/CN={name} CA",
    )
    run("req", *key, "-keyout", paths["key"], "-out", paths["csr"], "-subj", f"/CN={name}")
    run(
        "x509", "-req", "-in", paths["csr"], "-CA", paths["ca"], "-CAkey", paths["ca-key"], "-CAcreateserial",
        "-out", paths["cert"], "-days", "2", "-extfile", paths["ext"],
    )  # fmt: skip
