"""`breastseg sign`: put a signature into a bundle, so that a scanner can tell who made it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from breastseg_deploy.cli.command import Command, print_json


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="a folder made by breastseg-export")
    parser.add_argument("--key", required=True, type=Path, metavar="PEM", help="private key: Ed25519 or ECDSA P-256")
    parser.add_argument("--force", action="store_true", help="replace a signature that is there")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def _run(arguments: argparse.Namespace) -> int:
    """Sign; what is told of the key is the SHA-256 of its public half, never a part of itself."""
    from breastseg_deploy.signing import sign_bundle
    from breastseg_deploy.trust.keys import load_private_key, others_may_read
    from breastseg_deploy.trust.statement import SIGNATURE

    key = load_private_key(arguments.key, lambda: _passphrase(arguments.key))
    if others_may_read(arguments.key):
        print(f"warning: others may read {arguments.key}; take that away: chmod 600", file=sys.stderr)
    signer = sign_bundle(arguments.bundle, key, force=arguments.force)
    place = arguments.bundle / SIGNATURE
    if arguments.json:
        print_json({"bundle": str(arguments.bundle), "signature": str(place), "signed_by": signer})
    else:
        print(f"signature {place} by the key {signer}")
    return 0


def _passphrase(key: Path) -> bytes | None:
    """The passphrase of an encrypted key: from the environment, else asked for where somebody can answer."""
    from breastseg_deploy.trust.keys import PASSPHRASE_VARIABLE

    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is None and sys.stdin.isatty():
        from getpass import getpass

        given = getpass(f"passphrase of {key}: ")
    return None if given is None else given.encode()


COMMAND = Command("sign a bundle with a private key", _add_arguments, _run, loads=("breastseg_deploy.bundle",))
