"""A Secret as a kubelet mounts it."""

import uuid
from pathlib import Path

from authority import Authority


class MountedSecret:
    """Files that are links into `..data`, itself a link, which an update swaps for one to a new directory."""

    def __init__(self, folder: Path) -> None:
        """The Secret that is mounted there; an empty one when there is none yet."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, **files: bytes) -> None:
        """The whole content: `put(tls_crt=…)` is a file `tls.crt`."""
        version = self.folder / f"..{uuid.uuid4()}"
        version.mkdir()
        for name, content in files.items():
            (version / name.replace("_", ".")).write_bytes(content)
            link = self.folder / name.replace("_", ".")
            if not link.is_symlink():
                link.symlink_to(f"..data/{link.name}")
        swapped = self.folder / "..data_tmp"
        swapped.symlink_to(version.name)
        swapped.replace(self.folder / "..data")

    def pair(self, signer: Authority, *believed: Authority, expired: bool = False) -> None:
        """A new certificate of `signer`, and the authorities that are believed (else the signer alone)."""
        issue = signer.issue_expired if expired else signer.issue
        certificate, key = (Path(path).read_bytes() for path in issue("service"))
        authorities = b"".join(one.ca.read_bytes() for one in believed or (signer,))
        self.put(tls_crt=certificate, tls_key=key, ca_crt=authorities)

    def path(self, name: str) -> str:
        """Where a file is."""
        return str(self.folder / name)

    def options(self) -> dict[str, str]:
        """Options of [grpc] that name the files."""
        return {"tls_cert": self.path("tls.crt"), "tls_key": self.path("tls.key"), "tls_ca": self.path("ca.crt")}
