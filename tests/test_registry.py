"""The pack as the Comfy registry sees it."""

import re
from pathlib import PurePosixPath
from zipfile import ZipFile

import pytest

from checkout import ROOT
from packing import comfy_node, copy_checkout, files_of_checkout, pack

pytest.importorskip("comfy_cli")
FOLDERS = ("example_workflows", "locales", "nodes", "sae_ops", "subgraphs", "training", "web")
FILES = ("LICENSE", "README.md", "__init__.py", "pyproject.toml")
MAX_BYTES = 1_000_000


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return copy_checkout(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def archive(checkout):
    with ZipFile(pack(checkout)) as opened:
        yield opened


def test_the_registry_would_accept_the_pack(checkout):
    said = comfy_node("validate", checkout)
    assert "All validation checks passed" in said
    assert "Warning" not in said


def test_the_zip_holds_what_comfyui_and_its_users_read_and_nothing_else(archive):
    packed = archive.namelist()
    assert {PurePosixPath(name).parts[0] for name in packed} == {*FOLDERS, *FILES}
    assert {name for name in files_of_checkout() if PurePosixPath(name).parts[0] in FOLDERS} <= set(packed)


def test_the_zip_is_small(archive):
    assert sum(entry.compress_size for entry in archive.infolist()) < MAX_BYTES


def test_a_version_tag_publishes_the_version_in_pyproject():
    """.github/workflows/publish.yml looks for this very line."""
    assert len(re.findall(r'^version = "\d+\.\d+\.\d+"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)) == 1
