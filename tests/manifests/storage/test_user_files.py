"""Files that a user has named: whether they can be written is known before the work that they are for."""

from __future__ import annotations

import os
import re

import pytest

from wanbatch.errors import UserError
from wanbatch.manifests.storage.user_files import require_place, write_file


@pytest.fixture
def there(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize("name", ["new.json", "file", "folder/new.json", "new/newer/new.json"])
def test_a_place_where_a_file_can_be(there, name):
    before = sorted(there.glob("**/*"))
    require_place(there / name)
    assert sorted(there.glob("**/*")) == before, "nothing is made"
    write_file(there / name, b"{}")


@pytest.mark.parametrize(
    ("name", "why"),
    [("folder", "Is a directory"), ("file/new.json", "{}/file is no folder"), ("file/a/b", "{}/file is no folder")],
)
def test_a_place_where_none_can_be(there, name, why):
    told = f"{there / name}: cannot be written ({why.format(there)}): choose another file"
    with pytest.raises(UserError, match=f"^{re.escape(told)}$"):
        require_place(there / name)
    with pytest.raises(UserError, match=r": cannot be written \(.*\): choose another file$"):
        write_file(there / name, b"{}")


def test_a_place_for_a_folder(there, monkeypatch):
    for name in ("folder", "new", "folder/new"):
        require_place(there / name, folder=True)
    with pytest.raises(UserError, match=r"file: cannot be written \(.* is no folder\): choose another folder"):
        require_place(there / "file", folder=True)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(there / "folder"))  # root may do anything
    with pytest.raises(UserError, match=r"new: cannot be written \(nothing can be written to .*/folder\): choose"):
        require_place(there / "folder/new", folder=True)
    monkeypatch.chdir(there)
    with pytest.raises(UserError, match=r"^folder/new/a: cannot be written \(nothing can be written to .*/folder\)"):
        require_place((there / "folder/new/a").relative_to(there))
