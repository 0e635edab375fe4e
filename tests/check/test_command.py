"""The command line's part: what it prints, what it looks at, how it ends."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from simplesockets.__main__ import main

OLD = "from simplesockets import TCPServer\nserver = TCPServer()\nserver.setup()\nserver.start()\n"
GOOD = OLD.replace("()\nserver.start", "('127.0.0.1')\nserver.start")

Printed = pytest.CaptureFixture[str]


def check(*arguments: object) -> int:
    return main(["check", *map(str, arguments)])


def test_each_line_names_the_place_the_level_and_what_to_write(tmp_path: pathlib.Path, capsys: Printed) -> None:
    path = tmp_path / "old.py"
    path.write_text(OLD)
    assert check(path) == 1
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == f"{path}:1:27: ok: the import of simplesockets.TCPServer runs unchanged"
    assert lines[1].startswith(f"{path}:3:1: differs: a server's `setup()` without `ip`. Here: it listens on the host")
    assert 'In simplesockets 0.4.0: it listens on 127.0.0.1. Write `setup(ip="127.0.0.1", …)`' in lines[1]
    assert lines[2:] == [f"{path}:4:1: ok: TCPServer.start runs unchanged"]
    assert printed.err == "1 file: 2 places run unchanged, 1 need attention\n"


def test_quiet_leaves_out_what_runs_unchanged(tmp_path: pathlib.Path, capsys: Printed) -> None:
    (tmp_path / "good.py").write_text(GOOD)
    assert check("-q", tmp_path) == 0
    assert capsys.readouterr().out == ""


def test_json_is_one_list_of_objects(tmp_path: pathlib.Path, capsys: Printed) -> None:
    (tmp_path / "old.py").write_text(OLD)
    (tmp_path / "two.py").write_text("print 'x'\n")
    assert check("--json", "--quiet", tmp_path) == 2
    differs, error = json.loads(capsys.readouterr().out)
    assert {key: differs[key] for key in ("line", "column", "level", "fact")} == {
        "line": 3,
        "column": 1,
        "level": "differs",
        "fact": "simplesockets:default-ip",
    }
    assert (error["file"], error["level"]) == (str(tmp_path / "two.py"), "error")


UNREADABLE = {
    "python 2": b"print 'hello'\n",
    "null bytes": b"x = 1\0\n",
    "no utf-8": b"x = '\xff'\n",
    "unknown encoding": b"# coding: nonsense\n",
    "too deep": b"x = " + b"(" * 5000 + b")" * 5000,
    "deep attributes": b"x" + b".x" * 20_000,
}


@pytest.mark.parametrize("content", [pytest.param(content, id=name) for name, content in UNREADABLE.items()])
def test_what_cannot_be_read_is_told_and_the_rest_is_checked(
    content: bytes, tmp_path: pathlib.Path, capsys: Printed
) -> None:
    (tmp_path / "bad.py").write_bytes(content)
    (tmp_path / "old.py").write_text(OLD)
    assert check("-q", tmp_path) == 2
    bad, old = capsys.readouterr().out.splitlines()
    assert bad.startswith(f"{tmp_path / 'bad.py'}:")
    assert ": error: " in bad
    assert old.startswith(f"{tmp_path / 'old.py'}:3:1: differs: ")


def test_a_file_that_is_not_there_is_an_error(tmp_path: pathlib.Path, capsys: Printed) -> None:
    assert check(tmp_path / "missing.py") == 2
    assert "No such file" in capsys.readouterr().out


def test_directories_are_searched_and_each_file_is_read_once(tmp_path: pathlib.Path, capsys: Printed) -> None:
    for name in ("a.py", "b/c.pyw", "b/d.txt", ".git/e.py", "__pycache__/f.py", "venv/lib/g.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("import hisock\n")
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    assert check(tmp_path, tmp_path / "a.py", tmp_path / "b" / "d.txt") == 1
    files = [line.rpartition(":1:1: change")[0] for line in capsys.readouterr().out.splitlines()]
    assert [pathlib.Path(file).relative_to(tmp_path).as_posix().split(":")[0] for file in files] == [
        "a.py",
        "b/c.pyw",
        "b/d.txt",
    ]


def test_programs_of_others_are_not_talked_about(tmp_path: pathlib.Path, capsys: Printed) -> None:
    (tmp_path / "other.py").write_text("import socketserver\n")
    assert check(tmp_path) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "nothing of simplesockets, hisock or happypandax_client was recognised" in printed.err


def test_it_is_a_command_and_runs_nothing_of_the_program(tmp_path: pathlib.Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"import hisock\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    command = [sys.executable, "-m", "simplesockets", "check", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Write `from simplesockets import hisock`" in done.stdout
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_names_of_files_may_be_anything(tmp_path: pathlib.Path) -> None:
    pathlib.Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.py")).write_text("import hisock\n")
    command = [sys.executable, "-m", "simplesockets", "check", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert b"\\udcff.py:1:1: change: " in done.stdout


def test_who_reads_may_have_seen_enough(tmp_path: pathlib.Path) -> None:
    (tmp_path / "old.py").write_text(OLD)
    command = [sys.executable, "-m", "simplesockets", "check", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == "1 file: 2 places run unchanged, 1 need attention\n"
        assert process.wait(60) == 1
