"""What is kept of a conversation with a model names no path of the machine."""

from __future__ import annotations

import pytest

from agentic_hpt.config import mask_paths


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/home/me/train.py failed", ".../train.py failed"),
        ('File "/home/my user/a b/train.py", line 3', 'File ".../train.py", line 3'),
        ("in /home/me/x.py: bad", "in .../x.py: bad"),
        ("path:/home/me/x, (/home/me/y)", "path:.../x, (.../y)"),
        (r"C:\Users\me\x.py: bad", ".../x.py: bad"),
        (r'{"p": "C:\\Users\\me\\x.py"}', '{"p": ".../x.py"}'),
        ("C:/Users/me/x.py", ".../x.py"),
        (r"on \\server\share\x.txt", "on .../x.txt"),
        ("sqlite:////home/me/ledger.db", "sqlite:///.../ledger.db"),
        ("file:///home/me/x.txt?a=1", "file://.../x.txt?a=1"),
        ('{"a": "/usr/lib/x"}', '{"a": ".../x"}'),
        ("'/home/me/x'", "'.../x'"),
    ],
)
def test_absolute_paths_are_cut_to_their_names(text: str, kept: str) -> None:
    assert mask_paths(text) == kept
    assert mask_paths(kept) == kept


@pytest.mark.parametrize(
    "text",
    [
        "https://host.example/a/b/c?x=/d/e#f/g",
        "see 'http://127.0.0.1:8000/v1' and postgresql://h:5432/db/x",
        "1/2, 3/4/5, n/a, and/or/not, text/html",
        "</data> <b>/</b>",
        '"x" / "y" is 3/4 of "z"',
        "a lone /name",
        '{"actions": [{"reason": "1/2 of the trials failed"}]}',
        "configs/model/a.yaml and ./here/too and ~/.cache/x",
        "",
    ],
)
def test_what_is_no_absolute_path_stays(text: str) -> None:
    assert mask_paths(text) == text


def test_it_takes_long_texts_in_its_stride() -> None:
    for text in ("/a" * 50_000, "/" * 100_000, '"/' * 50_000, "C:" + "\\" * 50_000, "a://" * 20_000):
        assert len(mask_paths(text)) <= len(text) + 5
