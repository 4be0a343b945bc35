"""What OpenAI's own client gets of a server: transcripts in every form, and errors that it understands."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import openai
import pytest

from clips import tone
from encoded import encode
from serving import FORM, PATH, Gated, form, read_answer, serving, wav
from tiny_audio.errors import UserError
from tiny_audio.formats import to_text
from tiny_audio.inference import Recognizer
from tiny_audio.serve.server import name_of
from tiny_audio.serve.settings import ServeSettings


def test_every_form_has_what_transcribe_returns(server, recognizer, corpus):
    client, path = server.client(), corpus / "dev1.flac"  # words are found in what is written of it
    expected = recognizer.transcribe(path, word_timestamps=True)
    assert expected.text
    assert expected.words

    def ask(form, **more):
        return client.audio.transcriptions.create(model="tiny", file=path, response_format=form, **more)

    assert ask("json").text == expected.text
    assert ask("text") == expected.text + "\n"
    for subtitles in ("srt", "vtt"):
        assert ask(subtitles) == to_text(expected, subtitles)
    plain = ask("verbose_json", language="en")
    assert (plain.text, plain.language, plain.words) == (expected.text, "en", None)
    assert plain.duration == expected.seconds
    [segment] = plain.segments
    assert (segment.text, segment.start) == (expected.text, 0)
    words = ask("verbose_json", timestamp_granularities=["word"]).words
    assert [word.word for word in words] == [word.text for word in expected.words]
    assert [word.start for word in words] == pytest.approx([word.start for word in expected.words], abs=1e-3)


def test_a_model_without_a_ctc_head_gives_no_words(recognizer, corpus):
    headless = Gated(recognizer)
    headless.model = SimpleNamespace(ctc=None, device=recognizer.model.device)
    with serving(headless) as server:
        found = server.client().audio.transcriptions.create(
            model="tiny",
            file=corpus / "dev0.flac",
            response_format="verbose_json",
            timestamp_granularities=["word"],
        )
        assert found.words is None
        assert found.segments
        assert server.client().models.list().data[0].word_timestamps is False


def test_every_format_of_recordings_is_read(server, recognizer):
    for kind in ("wav", "flac", "mp3", "vorbis", "opus", "m4a", "webm"):
        content = encode(kind, tone(1.0, 48_000), 48_000)
        found = server.client().audio.transcriptions.create(model="tiny", file=(f"a.{kind}", content))
        assert found.text == recognizer.transcribe(content).text, kind


def test_a_prompt_is_the_context_of_its_own_recording_alone(server, recognizer, noise):
    contexts = ["one, two, three", "", "six <|im_end|> seven"]
    with ThreadPoolExecutor(3) as pool:  # in one batch, perhaps
        found = list(pool.map(lambda context: server.post(wav(noise), prompt=context)[1]["text"], contexts))
    assert found == [recognizer.transcribe(noise, context=context).text for context in contexts]
    assert len(set(found)) == 3


def test_silence_has_an_empty_transcript(server):
    assert server.post(wav(np.zeros(16_000, np.float32))) == (200, {"text": ""})


def test_models(server):
    [model] = server.client().models.list().data
    assert (model.id, model.owned_by, model.word_timestamps) == ("tiny", "tiny-audio", True)
    assert server.client().models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError) as failure:
        server.client().models.retrieve("another")
    assert failure.value.code == "model_not_found"


def test_pieces_are_streamed_as_they_are_done(recognizer, noise):
    gated = Gated(recognizer, is_open=False)
    expected = recognizer.transcribe(noise, word_timestamps=True)
    assert len(expected.segments) > 2
    with serving(gated, batch_size=1) as server:
        gated.let(1)
        events = server.client().audio.transcriptions.create(model="tiny", file=("a.wav", wav(noise)), stream=True)
        first = next(events)
        assert first.type == "transcript.text.delta"
        assert len(gated.sizes) <= 2, "the others were not read yet"
        gated.let()
        *deltas, last = events
        assert {event.type for event in deltas} == {"transcript.text.delta"}
        assert (last.type, last.text) == ("transcript.text.done", expected.text)
        assert "".join(event.delta for event in [first, *deltas]) == expected.text


def test_a_stream_of_verbose_json_carries_what_the_page_shows(server, recognizer, noise):
    expected = recognizer.transcribe(noise, word_timestamps=True)
    *deltas, last = server.client().audio.transcriptions.create(
        model="tiny",
        file=("a.wav", wav(noise)),
        stream=True,
        response_format="verbose_json",
        timestamp_granularities=["word"],
    )
    words = [word["word"] for event in deltas for segment in event.segments for word in segment["words"]]
    assert words == [word.text for word in expected.words] == [word["word"] for word in last.words]
    assert last.subtitles == {form: to_text(expected, form) for form in ("srt", "vtt")}


GOOD = wav(tone(1.0))
NAN = wav(np.where(np.arange(16_000) == 100, np.nan, tone(1.0)).astype(np.float32))
REFUSED = {
    "no audio": (b"<html>404</html>", {}, "audio_decode_error", "file"),
    "cut": (encode("flac", tone(2.0))[:8_000], {}, "audio_decode_error", "file"),
    "nan": (NAN, {}, "audio_non_finite", "file"),
    "short": (wav(tone(0.01)), {}, "audio_too_short", "file"),
    "long": (encode("mp3", tone(21.0)), {}, "audio_too_long", "file"),
    "empty": (b"", {}, "invalid_value", "file"),
    "none": (None, {}, "invalid_value", "file"),
    "form": (GOOD, {"response_format": "secret"}, "invalid_value", "response_format"),
    "stream": (GOOD, {"stream": "secret"}, "invalid_value", "stream"),
    "streamed subtitles": (GOOD, {"stream": "true", "response_format": "srt"}, "invalid_value", "stream"),
    "prompt": (GOOD, {"prompt": "secret " * 200}, "invalid_value", "prompt"),
    "temperature": (GOOD, {"temperature": "secret"}, "invalid_value", "temperature"),
    "logprobs": (GOOD, {"include[]": "logprobs"}, "invalid_value", "include"),
    "granularity": (GOOD, {"timestamp_granularities[]": "secret"}, "invalid_value", "timestamp_granularities"),
    "words of json": (GOOD, {"timestamp_granularities[]": "word"}, "invalid_value", "timestamp_granularities"),
    "unknown": (GOOD, {"respose_format": "secret"}, "unknown_parameter", None),
    "large field": (GOOD, {"language": "secret" * 20_000}, "invalid_form", None),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_served_is_told(case, server):
    content, fields, code, param = REFUSED[case]
    status, body = server.post(content, **fields)
    assert status == 400
    error = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param)
    assert "secret" not in error["message"]
    assert "Traceback" not in json.dumps(body)


def test_the_client_understands_refusals(server):
    with pytest.raises(openai.BadRequestError) as failure:
        server.client().audio.transcriptions.create(model="tiny", file=("secret.wav", b"nothing"))
    assert (failure.value.code, failure.value.param) == ("audio_decode_error", "file")
    with pytest.raises(openai.APIStatusError) as failure:
        server.client().audio.transcriptions.create(model="tiny", file=("a.wav", bytes(3_000_000)))
    assert (failure.value.status_code, failure.value.code) == (413, "file_too_large")


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("POST", PATH, {}, b"", 400),
        ("POST", PATH, {"Content-Type": "multipart/form-data"}, b"x", 400),
        ("POST", PATH, {"Content-Type": "multipart/form-data; boundary=\xe4; charset=\x01"}, b"x", 400),
        ("POST", PATH, FORM, b"x" * 1_000, 400),
        ("POST", PATH, FORM, form(GOOD) * 2, 200),  # what follows the end of a form is no part of it
        ("POST", PATH, FORM, form(GOOD).replace(b"--a-boundary--", b"") + form(GOOD), 400),
        ("GET", PATH, {}, None, 405),
        ("GET", "/v1/secret", {}, None, 404),
        ("DELETE", "/", {}, None, 405),
    ],
)
def test_requests_of_other_kinds_get_the_same_errors(method, path, headers, body, status, server):
    found, kind, answered = server.ask(method, path, body, headers)
    assert found == status
    assert kind["content-type"] == "application/json"
    assert status == 200 or json.loads(answered)["error"]["type"] == "invalid_request_error"
    assert b"secret" not in answered


def test_an_upload_without_an_announced_length_is_cut_off_at_the_limit(server):
    def chunks():
        yield form(GOOD, "a.wav").partition(GOOD)[0]
        for _ in range(40):
            yield bytes(100_000)

    status, _, body = server.ask("POST", PATH, chunks(), FORM)  # type: ignore[arg-type]
    assert (status, json.loads(body)["error"]["code"]) == (413, "file_too_large")


def test_what_comes_at_once_is_read_at_once(recognizer, corpus):
    gated = Gated(recognizer, is_open=False)
    files = sorted(corpus.glob("dev*.flac"))[:6]
    with serving(gated, batch_size=4) as server, ThreadPoolExecutor(6) as pool:
        found = [pool.submit(server.post, file.read_bytes()) for file in files]
        server.wait_for("queue", 6)
        gated.let()
        assert [one.result()[1]["text"] for one in found] == [recognizer.transcribe(file).text for file in files]
        assert max(gated.sizes) >= 3
        assert sum(gated.sizes) == server.metric("batch_size_sum") == 6


def test_a_short_recording_does_not_wait_for_a_long_one(recognizer, noise):
    gated = Gated(recognizer, is_open=False)
    with serving(gated, batch_size=2) as server, ThreadPoolExecutor(2) as pool:
        long = pool.submit(server.post, wav(np.tile(noise, 4)))
        assert gated.asked.acquire(timeout=60)
        short = pool.submit(server.post, GOOD)
        server.wait_for("queue", 2)
        gated.let(2)
        assert short.result()[0] == 200
        assert not long.done()
        gated.let()
        assert long.result()[0] == 200


def test_few_recordings_lie_decoded_in_memory(recognizer):
    gated = Gated(recognizer, is_open=False)
    with serving(gated, batch_size=1) as server, ThreadPoolExecutor(6) as pool:
        found = [pool.submit(server.post, GOOD) for _ in range(6)]
        server.wait_for("queue", 6)
        gated.let()
        assert [one.result()[0] for one in found] == [200] * 6
    assert all(decoded <= read + 2 for read, decoded in enumerate(gated.ahead)), gated.ahead


def test_a_full_queue_asks_to_come_again(recognizer):
    gated = Gated(recognizer, is_open=False)
    with serving(gated, queue=1) as server, ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.post, GOOD)
        assert gated.asked.acquire(timeout=60)
        with pytest.raises(openai.RateLimitError) as failure:
            server.client().audio.transcriptions.create(model="tiny", file=("a.wav", GOOD))
        assert failure.value.code == "queue_full"
        assert failure.value.response.headers["retry-after"] == "1"
        patient = pool.submit(
            server.client(max_retries=5).audio.transcriptions.create, model="tiny", file=("a.wav", GOOD)
        )
        server.wait_for('requests_total{status="429"}', 2)
        gated.let()
        assert patient.result().text == first.result()[1]["text"]


def test_who_sends_slowly_is_cut_off_and_holds_up_nobody(recognizer):
    with serving(recognizer, timeout_seconds=0.5) as server:
        slow = [server.begin_upload(form(GOOD)[:5_000], len(form(GOOD))) for _ in range(20)]
        assert server.post(GOOD)[0] == 200
        for connection in slow:
            status, body = read_answer(connection)
            assert (status, body["error"]["code"]) == (408, "upload_timeout")


def test_what_takes_too_long_is_given_up(recognizer):
    gated = Gated(recognizer, is_open=False)
    with serving(gated, timeout_seconds=0.3) as server:
        status, body = server.post(GOOD)
        assert (status, body["error"]["code"]) == (504, "timeout")
        assert server.metric("queue") == 0
        _, events = server.post(GOOD, stream="true")
        assert json.loads(events.removeprefix("data: "))["error"]["code"] == "timeout"


def test_who_hangs_up_is_not_worked_for(recognizer, noise):
    gated = Gated(recognizer, is_open=False)
    with serving(gated, batch_size=1) as server:
        body = form(wav(noise))
        sending = server.begin_upload(body[:1_000], len(body))
        server.wait_for("uploads", 1)
        sending.close()
        server.wait_for("uploads", 0)
        waiting = server.begin_upload(body, len(body))
        assert gated.asked.acquire(timeout=60)
        waiting.close()
        server.wait_for("queue", 0)
        gated.let()
        assert server.post(GOOD)[0] == 200
        assert len(gated.sizes) == 2, "one piece of the long recording, and the other one"
        assert server.metric('requests_total{status="499"}') == 2


def test_no_file_is_left_open(recognizer):
    large = form(bytes(1_500_000))  # lies in a file
    with serving(recognizer) as server:

        def open_files() -> list[str]:
            server.wait_for("uploads", 0)
            links = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
            return [str(link) for link in links if not str(link).startswith(("socket:", "anon_inode:"))]

        server.post(large)
        before = open_files()
        for _ in range(3):
            server.post(bytes(1_500_000))
            server.begin_upload(large[:1_400_000], len(large)).close()
            server.begin_upload(large[:-10], len(large) - 10).close()
        assert len(open_files()) <= len(before)


def test_a_recording_that_breaks_the_model_breaks_no_other(recognizer, caplog):
    gated = Gated(recognizer, is_open=False)
    bad, good = tone(1.5), tone(1.0)
    gated.failing[len(bad)] = RuntimeError("secret: /home/me/models")
    with serving(gated) as server, ThreadPoolExecutor(4) as pool:
        found = [pool.submit(server.post, wav(samples)) for samples in (good, bad, good)]
        server.wait_for("queue", 3)
        gated.let()
        (status, first), failed, last = (one.result() for one in found)
        assert status == 200
        assert first == last[1]
        assert failed[0] == 500
        assert failed[1]["error"]["type"] == "server_error"
        assert "secret" not in json.dumps(failed[1])
        assert "secret" in caplog.text, "the log says what it was"
        with pytest.raises(openai.APIError, match="failed"):
            list(server.client().audio.transcriptions.create(model="tiny", file=("a.wav", wav(bad)), stream=True))
        assert server.post(GOOD)[0] == 200


def test_a_batch_that_is_too_large_for_the_memory_is_read_in_halves(recognizer, noise, caplog):
    gated = Gated(recognizer)
    gated.largest = 2
    with serving(gated) as server:
        assert server.post(wav(noise)) == (200, {"text": recognizer.transcribe(noise).text})
        assert "lower batch_size" in caplog.text
        gated.largest = 0
        status, body = server.post(GOOD)
        assert (status, body["error"]["code"]) == (503, "out_of_memory")


def test_a_key_opens(recognizer):
    with serving(recognizer, api_key="open sesame") as server:
        for key in ("", "open", "sésame"):
            status, body = server.post(GOOD, {"Authorization": f"Bearer {key}".encode().decode("latin-1")})
            assert (status, body["error"]["code"]) == (401, "invalid_api_key")
        with pytest.raises(openai.AuthenticationError):
            server.client("wrong").models.list()
        assert server.client("open sesame").audio.transcriptions.create(model="t", file=("a.wav", GOOD)).text
        assert [server.ask("GET", path)[0] for path in ("/health", "/", "/metrics", "/v1/models")] == [
            200,
            200,
            401,
            401,
        ]


def test_without_a_key_pages_of_other_sites_are_not_answered(server):
    status, body = server.post(GOOD, {"Host": "rebound.example"})
    assert (status, body["error"]["code"]) == (403, "wrong_host")
    status, body = server.post(GOOD, {"Origin": "https://other.example"})
    assert (status, body["error"]["code"]) == (403, "wrong_origin")
    assert server.post(GOOD, {"Origin": server.address})[0] == 200


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"host": "0.0.0.0"}, "TINY_AUDIO_API_KEY"),
        ({"host": "192.168.0.7"}, "TINY_AUDIO_API_KEY"),
        ({"host": "example.org"}, "TINY_AUDIO_API_KEY"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"queue": 0}, "queue must be at least 1, got 0"),
        ({"max_seconds": float("nan")}, "max_seconds must be above 0, got nan"),
        ({"port": 70_000}, "port must be 0 to 65535, got 70000"),
        ({"api_key": ""}, "printable ASCII"),
    ],
)
def test_settings_that_cannot_be_meant(wrong, said):
    with pytest.raises(UserError, match=said):
        ServeSettings(**wrong)
    assert ServeSettings(host="127.0.0.2").api_key is None
    assert ServeSettings(host="0.0.0.0", api_key="k").api_key == "k"


def test_a_model_is_named_by_its_run(checkpoint: Path, tmp_path: Path, monkeypatch):
    assert name_of(str(checkpoint)) == name_of(str(checkpoint.parents[1])) == "transcription"
    monkeypatch.chdir(checkpoint.parents[1])
    assert name_of("checkpoints/final.pt") == name_of(".") == "transcription"
    assert name_of("user/repository") == "user/repository"


def test_metrics_count(recognizer: Recognizer):
    with serving(recognizer) as server:
        server.post(GOOD)
        server.post(b"nothing")
        assert server.metric('requests_total{status="200"}') == server.metric('requests_total{status="400"}') == 1
        assert server.metric("audio_seconds_total") == 1.0
        assert server.metric("request_seconds_count") == 2
        status, _, body = server.ask("GET", "/health")
        assert (status, json.loads(body)) == (200, {"status": "ok", "model": "tiny"})
