"""`ta infer` as it is typed: which recordings are read, what is printed, and the exit status."""

import json
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tiny_audio.cli import main


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


@dataclass
class Transcription:
    path: str
    text: str
    seconds: float
    error: str | None = None


@pytest.fixture
def transcriber(monkeypatch, tmp_path):
    """Calls of `transcribe_files`; a recording whose name has `bad` in it fails."""
    calls: list[dict] = []

    def transcribe_files(checkpoint, paths, device="auto", batch_size=8, encoder=None, decoder=None):
        assert encoder is decoder is None
        calls.append({"checkpoint": checkpoint, "paths": paths, "device": device, "batch_size": batch_size})
        for path in paths:
            bad = "bad" in path
            yield Transcription(path, "" if bad else "hello\nworld", 1.5, "is silent throughout" if bad else None)

    module = types.ModuleType("tiny_audio.inference.transcribe")
    module.transcribe_files = transcribe_files  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tiny_audio.inference.transcribe", module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TA_DEBUG", raising=False)
    for name in ("final.pt", "a.wav", "b.wav", "bad.wav", "x,y.wav", "audio=1.wav"):
        write(name, "")
    for name in ("dir/sub/c.flac", "dir/n.txt"):
        write(name, "")
    return calls


def test_one_recording_is_its_transcript_alone(transcriber, capsys):
    assert main(["infer", "checkpoint=final.pt", "audio=a.wav"]) == 0
    assert capsys.readouterr() == ("hello world\n", "")
    expected = {"checkpoint": "final.pt", "paths": ["a.wav"], "device": "auto", "batch_size": 8}
    assert transcriber == [expected]


@pytest.mark.parametrize(
    ("typed", "paths"),
    [
        ("audio=a.wav,b.wav", ["a.wav", "b.wav"]),
        ("audio=a.wav b.wav", ["a.wav", "b.wav"]),
        ("--audio a.wav --audio=b.wav", ["a.wav", "b.wav"]),
        ("a.wav b.wav", ["a.wav", "b.wav"]),
        ("audio=x,y.wav b.wav", ["x,y.wav", "b.wav"]),
        ("audio=dir", ["dir/sub/c.flac"]),
        ("audio=dir/ b.wav", ["dir/sub/c.flac", "b.wav"]),
        ("audio=audio=1.wav b.wav", ["audio=1.wav", "b.wav"]),
    ],
)
def test_several_recordings_are_a_line_each(typed, paths, transcriber, capsys):
    assert main(["infer", "--checkpoint", "final.pt", "batch_size=2", *typed.split(), "--device=cpu"]) == 0
    assert transcriber[0]["paths"] == paths
    assert (transcriber[0]["device"], transcriber[0]["batch_size"]) == ("cpu", 2)
    assert capsys.readouterr().out == "".join(f"{path}\thello world\n" for path in paths)


def test_a_failed_recording_is_named_and_the_rest_transcribed(transcriber, capsys):
    assert main(["infer", "checkpoint=final.pt", "audio=bad.wav,a.wav"]) == 1
    out, err = capsys.readouterr()
    assert out == "a.wav\thello world\n"
    assert err == "ta infer: error: bad.wav: is silent throughout\n"


def test_json_to_a_file(transcriber, capsys):
    command = ["infer", "checkpoint=final.pt", "format=json", "output=out.jsonl", "a.wav", "bad.wav"]
    assert main(command) == 1
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert rows[0] == {"path": "a.wav", "text": "hello world", "seconds": 1.5, "error": None}
    assert rows[1]["error"] == "is silent throughout"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("checkpoint=x.pt", "name a recording: ta infer checkpoint=x.pt audio=test.wav"),
        ("audio=a.wav", "name a checkpoint: ta infer checkpoint=outputs/.../final.pt audio=test.wav"),
        ("checkpoint=x.pt audio=a.wav", "there is no checkpoint x.pt. Beside it: bad.pt, final.pt."),
        ("checkpoint=final.pt audio=q.wav,r.wav", "there is no file q.wav, r.wav."),
        ("checkpoint=final.pt audio=empty",
         "there are no recordings (wav, flac, mp3, m4a, ...) in the folder empty."),
        ("checkpoint=final.pt audio=a.wav device=gpu",
         "device must be one of auto, cuda, mps, cpu, got gpu. Did you mean cpu?"),
        ("checkpoint=final.pt audio=a.wav channel=left",
         "channel must be mix, each, or a number, 0 being the first, got 'left'."),
        ("checkpoint=final.pt audio=a.wav batch_size=0", "batch_size must be at least 1, got 0."),
        ("checkpoint=final.pt audio=a.wav output=no/dir/x",
         "output: cannot write no/dir/x: No such file or directory."),
        ("--chekpoint final.pt", "unrecognized arguments: --chekpoint; `ta infer --help` says more."),
    ],
)  # fmt: skip
def test_mistakes_of_infer(typed, message, transcriber, capsys):
    write("bad.pt", "")
    Path("empty").mkdir()
    assert main(["infer", *typed.split()]) == 2
    assert capsys.readouterr() == ("", f"ta infer: error: {message}\n")


def test_a_misspelt_option_is_no_file(transcriber, capsys):
    assert main(["infer", "checkpoint=final.pt", "audio=a.wav", "formt=json"]) == 2
    assert "there is no option formt. Did you mean format?" in capsys.readouterr().err


def test_what_is_not_looked_at_is_named_and_counted(transcriber, capsys):
    for name in ("talk.m4a", "talk.MP4", "talk.wma", "talk.webm", "talk.aac"):
        write(f"phone/{name}", "")
    assert main(["infer", "checkpoint=final.pt", "audio=phone"]) == 0
    assert [Path(path).suffix for path in transcriber[0]["paths"]] == [".MP4", ".aac", ".m4a", ".webm", ".wma"]
    assert capsys.readouterr().err == ""
    write("phone/.hidden", "")
    write("phone/a/notes.txt", "")
    assert main(["infer", "checkpoint=final.pt", "audio=phone"]) == 0
    told = "ta infer: phone: 2 files not looked at, by name no recordings: phone/.hidden, phone/a/notes.txt"
    assert told in capsys.readouterr().err
    write("phone/._talk.m4a", "")  # what macOS keeps about a file, on disks of others
    Path("phone/linked").symlink_to(Path("phone/a").absolute())
    for number in range(10):
        write(f"phone/b{number}.json", "")
    assert main(["infer", "checkpoint=final.pt", "audio=phone"]) == 0
    assert len(transcriber[-1]["paths"]) == 5
    assert "14 files not looked at" in (err := capsys.readouterr().err)
    assert "b9.json" not in err


@pytest.mark.parametrize(
    ("typed", "paths"),
    [
        ("channel=each", ["call.wav@0", "call.wav@1", "mono.wav@0", "bad.wav"]),
        ("channel=1", ["call.wav@1", "mono.wav@1", "bad.wav@1"]),
        ("channel=mix", ["call.wav", "mono.wav", "bad.wav"]),
    ],
)
def test_a_call_is_transcribed_by_channel(typed, paths, transcriber):
    soundfile.write("call.wav", np.zeros((100, 2)), 8_000)
    soundfile.write("mono.wav", np.zeros(100), 8_000)
    main(["infer", "checkpoint=final.pt", "call.wav", "mono.wav", "bad.wav", typed])
    assert transcriber[0]["paths"] == paths


def test_a_channel_can_be_named_with_the_recording(transcriber, capsys):
    soundfile.write("call.wav", np.zeros((100, 2)), 8_000)
    write("odd@3", "")
    assert main(["infer", "checkpoint=final.pt", "call.wav@1", "odd@3", "channel=0"]) == 0
    assert transcriber[0]["paths"] == ["call.wav@1", "odd@3@0"]
    assert main(["infer", "checkpoint=final.pt", "absent.wav@1"]) == 2
    assert "there is no file absent.wav@1." in capsys.readouterr().err
