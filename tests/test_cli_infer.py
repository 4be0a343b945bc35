"""`ta infer` as it is typed: which recordings are read, what is printed, and the exit status."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from clips import read_lines
from tiny_audio.cli import main
from tiny_audio.inference import files as transcribing
from tiny_audio.inference.transcribe import Decoding
from tiny_audio.inference.transcription import TextSegment, Transcription
from tiny_audio.model.alignment import AlignedWord

TALK_WORDS = 43  # the first at so many seconds that time ends their subtitles, the others at so few that lines do
TALK_STARTS = [10 + 0.8 * n if n < 20 else 26 + 0.4 * (n - 20) for n in range(TALK_WORDS)]


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


@pytest.fixture
def transcriber(monkeypatch, tmp_path):
    """Calls of `transcribe_files`; a recording whose name has `bad` in it fails."""
    calls: list[dict] = []

    def transcribe_files(checkpoint, paths, device, batch_size, encoder, decoder, decoding, context):
        assert encoder is decoder is None
        calls.append({"checkpoint": checkpoint, "paths": paths, "device": device, "batch_size": batch_size})
        calls[-1]["decoding"] = decoding
        for path in paths:
            if "break" in path:
                raise KeyboardInterrupt
            if "talk" in path and decoding.word_timestamps:
                words = tuple(AlignedWord(f"word{n}", s, s + 0.08, 0.5) for n, s in enumerate(TALK_STARTS))
                text = " ".join(word.text for word in words)
                yield Transcription(path, (TextSegment(9.5, 40, text, (), words),), 60.0)
                continue
            bad = "bad" in path
            flags = ("loop", "retried") if "loops" in path else ()
            segments = (TextSegment(0.0, 1.25, "hello"), TextSegment(3661.5, 3662, "<world", flags))
            yield Transcription(path, () if bad else segments, 1.5, "is silent throughout" if bad else None)

    monkeypatch.setattr(transcribing, "transcribe_files", transcribe_files)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TA_DEBUG", raising=False)
    for name in ("final.pt", "a.wav", "b.wav", "bad.wav", "x,y.wav", "audio=1.wav", "loops.wav", "break.wav"):
        write(name, "")
    for name in ("dir/sub/c.flac", "dir/n.txt"):
        write(name, "")
    return calls


def test_one_recording_is_its_transcript_alone(transcriber, capsys):
    assert main(["infer", "checkpoint=final.pt", "audio=a.wav"]) == 0
    assert capsys.readouterr() == ("hello <world\n", "")
    expected = {"checkpoint": "final.pt", "paths": ["a.wav"], "device": "auto", "batch_size": 8}
    assert transcriber == [expected | {"decoding": Decoding()}]


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
    assert capsys.readouterr().out == "".join(f"{path}\thello <world\n" for path in paths)


def test_a_failed_recording_is_named_and_the_rest_transcribed(transcriber, capsys):
    assert main(["infer", "checkpoint=final.pt", "audio=bad.wav,a.wav"]) == 1
    out, err = capsys.readouterr()
    assert out == "a.wav\thello <world\n"
    assert err == "ta infer: error: bad.wav: is silent throughout\n"


def test_json_to_a_file(transcriber, capsys):
    command = ["infer", "checkpoint=final.pt", "format=json", "output=out.jsonl", "a.wav", "bad.wav"]
    assert main(command) == 1
    rows = read_lines(Path("out.jsonl"))
    segments = [
        {"start": 0.0, "end": 1.25, "text": "hello", "flags": [], "words": None},
        {"start": 3661.5, "end": 3662, "text": "<world", "flags": [], "words": None},
    ]
    expected = {"path": "a.wav", "text": "hello <world", "seconds": 1.5, "segments": segments, "error": None}
    assert rows[0] == expected
    assert rows[1]["error"] == "is silent throughout"
    assert capsys.readouterr().out == ""


def test_a_loop_is_told_on_standard_error_and_in_json(transcriber, capsys):
    assert main(["infer", "checkpoint=final.pt", "format=json", "a.wav", "loops.wav"]) == 0
    out, err = capsys.readouterr()
    assert [row["segments"][1]["flags"] for row in map(json.loads, out.splitlines())] == [[], ["loop", "retried"]]
    assert err.splitlines() == [
        "ta infer: warning: loops.wav: 3661.5 to 3662.0 s: the model repeated itself, and was stopped.",
        "ta infer: warning: loops.wav: 1 of 2 pieces are parts of pieces that looped or were cut off.",
    ]


def test_subtitles(transcriber, capsys):
    assert main(["infer", "checkpoint=final.pt", "format=srt", "a.wav"]) == 0
    srt = "1\n00:00:00,000 --> 00:00:01,250\nhello\n\n2\n01:01:01,500 --> 01:01:02,000\n<world\n"
    assert capsys.readouterr().out == srt
    assert main(["infer", "checkpoint=final.pt", "format=vtt", "output=a.vtt", "a.wav"]) == 0
    cues = "00:00:00.000 --> 00:00:01.250\nhello\n\n01:01:01.500 --> 01:01:02.000\n&lt;world\n"
    assert Path("a.vtt").read_text() == f"WEBVTT\n\n{cues}"
    assert main(["infer", "checkpoint=final.pt", "format=vtt", "a.wav", "b.wav"]) == 2
    assert "name a folder, output=subtitles/." in capsys.readouterr().err


def test_subtitles_are_cut_at_words_and_can_be_read(transcriber, capsys):
    write("talk.wav", "")
    typed = ["infer", "checkpoint=final.pt", "talk.wav", "word_timestamps=true"]
    assert main([*typed, "format=srt"]) == 0
    cues = capsys.readouterr().out.strip().split("\n\n")
    seen, times, letters = [], [], []
    for number, cue in enumerate(cues, 1):
        head, when, *lines = cue.splitlines()
        assert head == str(number)
        assert 1 <= len(lines) <= 2
        assert max(map(len, lines)) <= 42
        letters.append(sum(map(len, lines)))
        seen += " ".join(lines).split()
        times += [float(t[6:].replace(",", ".")) for t in when.split(" --> ")]
    assert seen == [f"word{n}" for n in range(TALK_WORDS)]
    assert times == sorted(times)
    lengths = [end - start for start, end in zip(times[::2], times[1::2], strict=True)]
    assert 6 < max(lengths) <= 7
    assert max(letters) > 70
    assert min(lengths) == pytest.approx(1), "the last word alone would be shown for 80 ms"
    assert times[0] == 10
    assert main([*typed, "format=vtt"]) == 0
    assert capsys.readouterr().out.startswith("WEBVTT\n\n00:00:10.000 --> 00:00:1")


def test_words_in_json_and_nowhere_in_plain_text(transcriber, capsys):
    write("talk.wav", "")
    assert main(["infer", "checkpoint=final.pt", "talk.wav", "format=json", "--word-timestamps=true"]) == 0
    [segment] = json.loads(capsys.readouterr().out)["segments"]
    assert segment["words"][3] == {"word": "word3", "start": 12.4, "end": 12.48, "confidence": 0.5}
    assert " ".join(word["word"] for word in segment["words"]) == segment["text"]
    assert main(["infer", "checkpoint=final.pt", "talk.wav", "word_timestamps=true"]) == 2
    assert "format=text cannot show word_timestamps=true; name format=json" in capsys.readouterr().err


def test_options_of_decoding_reach_the_recognizer(transcriber):
    typed = ["piece_seconds=12", "max_new_tokens=50", "loop_guard=false", "--silence-seconds=0", "vad=false"]
    assert main(["infer", "checkpoint=final.pt", "a.wav", *typed]) == 0
    assert transcriber[0]["decoding"] == Decoding(12.0, 50, False, 0.0, vad=False)


def test_a_folder_of_transcripts_is_gone_on_with(transcriber, capsys):
    assert main(["infer", "checkpoint=final.pt", "dir", "a.wav", "bad.wav", "output=texts/", "format=srt"]) == 1
    assert sorted(map(str, Path("texts").rglob("*.*"))) == ["texts/a.wav.srt", "texts/sub/c.flac.srt"]
    assert main(["infer", "checkpoint=final.pt", "dir", "a.wav", "b.wav", "output=texts", "format=srt"]) == 0
    assert transcriber[1]["paths"] == ["b.wav"]
    assert capsys.readouterr().err.splitlines()[-1] == "ta infer: 2 of 3 are done already."
    write("dir/other/d.wav", "")
    assert main(["infer", "checkpoint=final.pt", "dir", "output=texts", "format=srt"]) == 0
    assert transcriber[2]["paths"] == ["dir/other/d.wav"], "a place does not depend on what else is transcribed"


def test_a_recording_that_fails_is_tried_again_and_no_two_share_a_file(transcriber, capsys):
    write("other/a.wav", "")
    assert main(["infer", "checkpoint=final.pt", "a.wav", "other/a.wav", "bad.wav", "output=texts/"]) == 1
    assert main(["infer", "checkpoint=final.pt", "a.wav", "other/a.wav", "bad.wav", "output=texts/"]) == 1
    assert transcriber[1]["paths"] == ["bad.wav"]
    write("more/c.flac", "")
    assert main(["infer", "checkpoint=final.pt", "dir/sub", "more", "output=new/"]) == 2
    assert "would both go to new/c.flac.txt; name the folder above them." in capsys.readouterr().err


@pytest.mark.parametrize("output", ["other.pt", "other.wav"])
def test_what_is_no_text_is_not_written_over(output, transcriber, capsys):
    content = bytes(range(256))
    Path(output).write_bytes(content)
    assert main(["infer", "checkpoint=final.pt", "audio=a.wav", f"output={output}"]) == 2
    assert f"output={output} exists and is not a text file" in capsys.readouterr().err
    assert Path(output).read_bytes() == content


def test_a_link_is_written_through_and_a_device_is_not_replaced(transcriber, capsys):
    Path("there.txt").write_text("yesterday")
    Path("link.txt").symlink_to("there.txt")
    assert main(["infer", "checkpoint=final.pt", "audio=a.wav", "output=link.txt"]) == 0
    assert Path("link.txt").is_symlink()
    assert Path("there.txt").read_text() == "hello <world\n"
    assert main(["infer", "checkpoint=final.pt", "audio=a.wav", "output=/dev/null"]) == 0
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("output", ["a.wav", "./final.pt", "link.wav", "call.wav"])
def test_an_output_that_is_an_input_is_refused(output, transcriber, capsys):
    for name in ("a.wav", "final.pt", "call.wav"):
        write(name, "precious")
    Path("link.wav").symlink_to("a.wav")
    assert main(["infer", "checkpoint=final.pt", "audio=a.wav", "call.wav@1", f"output={output}"]) == 2
    assert f"output={Path(output)} is an input of this command; name another file." in capsys.readouterr().err
    assert {Path(name).read_text() for name in ("a.wav", "final.pt", "call.wav")} == {"precious"}


def test_an_output_is_as_it_was_until_all_is_done(transcriber, capsys):
    write("out.txt", "yesterday")
    assert main(["infer", "checkpoint=gone.pt", "a.wav", "output=out.txt"]) == 2
    assert main(["infer", "checkpoint=final.pt", "a.wav", "break.wav", "output=out.txt"]) == 130
    assert Path("out.txt").read_text() == "yesterday"
    assert Path("out.txt.part").read_text() == "a.wav\thello <world\n"
    assert "what was done so far is in out.txt.part." in capsys.readouterr().err
    assert main(["infer", "checkpoint=final.pt", "break.wav", "output=new.txt"]) == 130
    assert not list(Path().glob("new.txt*"))
    assert main(["infer", "checkpoint=final.pt", "a.wav", "output=out.txt"]) == 0
    assert Path("out.txt").read_text() == "hello <world\n"
    assert not Path("out.txt.part").exists()


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
         "device must be one of auto, cuda, mps, cpu, got gpu. Did you mean cuda?"),
        ("checkpoint=final.pt audio=a.wav channel=left",
         "channel must be mix, each, or a number, 0 being the first, got 'left'."),
        ("checkpoint=final.pt audio=a.wav batch_size=0", "batch_size must be at least 1, got 0."),
        ("checkpoint=final.pt audio=a.wav output=no/dir/x",
         "output=no/dir/x: cannot be written (No such file or directory)."),
        ("checkpoint=final.pt audio=", "audio= is empty; name a recording, or a folder: audio=. is the current one."),
        ("checkpoint=final.pt audio=a.wav output=x output=y",
         "output is given twice; `ta infer --help` says more."),
        ("checkpoint=final.pt audio=a.wav piece_seconds=40", "piece_seconds must be 1 to 30, got 40."),
        ("checkpoint=final.pt audio=a.wav beams=0", "beams must be 1 to 100, got 0."),
        ("checkpoint=final.pt audio=a.wav ctc_weight=nan", "ctc_weight must be a number above 0, got nan."),
        ("checkpoint=final.pt audio=a.wav prior_weight=-1", "prior_weight must be at least 0, got -1."),
        ("checkpoint=final.pt audio=a.wav max_nats=0", "max_nats must be a number above 0, got 0."),
        ("checkpoint=final.pt audio=a.wav max_new_tokens=0", "max_new_tokens must be at least 1, got 0."),
        ("--chekpoint final.pt", "unrecognized arguments: --chekpoint; `ta infer --help` says more."),
    ],
)  # fmt: skip
def test_mistakes_of_infer(typed, message, transcriber, capsys):
    write("bad.pt", "")
    Path("empty").mkdir()
    assert main(["infer", *typed.split()]) == 2
    assert capsys.readouterr() == ("", f"ta infer: error: {message}\n")


def test_a_misspelled_option_is_no_file(transcriber, capsys):
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
    told = "ta infer: phone: 2 files skipped, no recordings by their names: phone/.hidden, phone/a/notes.txt"
    assert told in capsys.readouterr().err
    write("phone/._talk.m4a", "")  # what macOS keeps about a file, on disks of others
    Path("phone/linked").symlink_to(Path("phone/a").absolute())
    for number in range(10):
        write(f"phone/b{number}.json", "")
    assert main(["infer", "checkpoint=final.pt", "audio=phone"]) == 0
    assert len(transcriber[-1]["paths"]) == 5
    assert "14 files skipped" in (err := capsys.readouterr().err)
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
