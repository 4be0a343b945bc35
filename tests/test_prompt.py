"""The prompt comes through what templates do to a message, and a turn ends as the template ends it.

Each template has one habit that published ones have.
"""

from __future__ import annotations

import datetime

import pytest
from tokenizers.processors import TemplateProcessing

from tiny_audio.errors import UserError
from tiny_audio.prompt import Prompt
from tiny_models import SPECIAL, tokenizer

TURN = "<|im_start|>{{ message['role'] }}\n%s<|im_end|>\n"
START = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
INSTRUCTION = "Transcribe the speech."


def chat(content: str, before: str = "", start: str = START) -> str:
    return f"{before}{{% for message in messages %}}{TURN % content}{{% endfor %}}{start}"


def read(template: str, instruction: str = INSTRUCTION, **special: str) -> tuple[str, str, str]:
    """What is read before the audio and after it, and what ends a turn, as text."""
    tokens = tokenizer(special=[*SPECIAL, *special.values()])
    tokens.chat_template = template
    for name, token in special.items():
        setattr(tokens, name, token)
    prompt = Prompt(tokens, instruction)
    return tuple(tokens.decode(ids) for ids in (prompt.prefix_ids, prompt.suffix_ids, prompt.end_ids))


PLAIN = ("<|im_start|>user\n", f"\n{INSTRUCTION}<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>")


@pytest.mark.parametrize(
    "content",
    ["{{ message['content'] }}", "{{ message['content'] | trim }}", "{{ message['content'].strip() }}"],
    ids=["as it is", "trim", "strip"],
)
def test_white_space_that_is_taken_off_the_message_takes_nothing_of_the_prompt(content):
    assert read(chat(content)) == PLAIN


@pytest.mark.parametrize("change", ["upper", "lower", "title", "capitalize"])
def test_a_template_may_change_the_case_of_the_message(change):
    template = chat(f"{{{{ message['content'] | {change} }}}}")
    changed = {"capitalize": "transcribe the speech."}.get(change) or getattr(INSTRUCTION, change)()
    assert read(template) == (PLAIN[0], PLAIN[1].replace(INSTRUCTION, changed), PLAIN[2])


def test_a_date_is_read():
    prefix, *others = read(chat("{{ message['content'] }}", "Today is {{ strftime_now('%d %b %Y') }}.\n"))
    assert prefix == f"Today is {datetime.datetime.now().strftime('%d %b %Y')}.\n{PLAIN[0]}"
    assert others == list(PLAIN[1:])


def test_a_system_turn_by_default_is_read():
    system = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    assert read(chat("{{ message['content'] | trim }}", system)) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n" + PLAIN[0], *PLAIN[1:]
    )  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}",
        "{{ message['content'][0].text | trim }}",
        "{{ message['content'][0]['text'] + '' }}",
    ],
    ids=["strings are left out", "strings have no text", "strings are an error"],
)
def test_content_that_must_be_a_list_of_parts_is_one(content):
    assert read(chat(content)) == PLAIN


def test_a_think_block_that_is_written_empty_is_read():
    thinking = START.replace(
        "{% endif %}", "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    )
    prefix, suffix, end = read(chat("{{ message['content'] }}", start=thinking))
    assert (prefix, suffix, end) == (PLAIN[0], f"{PLAIN[1]}<think>\n\n</think>\n\n", PLAIN[2])


def test_a_bos_that_the_template_writes_is_read_once_though_the_tokenizer_adds_one_too():
    tokens = tokenizer(special=[*SPECIAL, "<s>"])
    tokens.bos_token = "<s>"
    bos = tokens.bos_token_id
    tokens.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    assert tokens("one")["input_ids"][0] == bos, "the tokenizer adds it by itself"
    for before, expected in (("{{ bos_token }}", 1), ("", 0)):
        tokens.chat_template = chat("{{ message['content'] }}", before)
        prompt = Prompt(tokens, INSTRUCTION)
        whole = prompt.prefix_ids + prompt.suffix_ids + prompt.target_ids("one two")
        assert whole.count(bos) == expected
        assert prompt.prefix_ids.count(bos) == expected
        assert bos not in prompt.encode("one")


ENDS = {
    "gemma: another token than the end of a text": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}",
        "<end_of_turn>",
    ),
    "phi-3: the end of the text follows the end of the turn": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n{% endfor %}"
        "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}",
        "<end_of_turn>",
    ),
    "glm-4: the next turn begins": (
        "{% for m in messages %}{{ '<end_of_turn>' if m['role'] == 'user' else '<|im_start|>' }}\n"
        "{{ m['content'] }}{% endfor %}",
        "<end_of_turn>",
    ),
    "llama-2: a space stands before it": (
        "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] | trim }} [/INST]{% else %}"
        " {{ m['content'] | trim }} {{ eos_token }}{% endif %}{% endfor %}",
        " <|im_end|>",
    ),
    "alpaca: none is written": (
        "{% for m in messages %}### {{ m['role'] }}\n{{ m['content'] }}\n\n{% endfor %}",
        "<|im_end|>",
    ),
    "no conversation with an answer is rendered": (
        "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}{{ messages[0]['content'] }}",
        "<|im_end|>",
    ),
}  # fmt: skip


@pytest.mark.parametrize("template", ENDS)
def test_a_turn_ends_with_what_the_template_writes_after_an_answer(template):
    written, end = ENDS[template]
    tokens = tokenizer(special=[*SPECIAL, "<end_of_turn>"])
    tokens.chat_template = written
    prompt = Prompt(tokens, INSTRUCTION)
    taught = prompt.target_ids("one two")
    assert tokens.decode(taught) == f"one two{end}"
    assert prompt.end_id == taught[-1] == tokens.convert_tokens_to_ids(end.strip())
    assert prompt.decode(taught) == "one two"


def test_an_end_that_the_tokenizer_takes_for_text_is_not_read_out():
    tokens = tokenizer(special=SPECIAL)
    tokens.add_tokens(["<end_of_turn>"])  # not as a special token
    tokens.chat_template = ENDS["gemma: another token than the end of a text"][0]
    prompt = Prompt(tokens, INSTRUCTION)
    assert prompt.decode(prompt.target_ids("one two")) == "one two"


def test_white_space_that_is_a_token_of_its_own_ends_no_turn_and_is_not_read_out():
    tokens = tokenizer(special=[*SPECIAL, "<end_of_turn>"])
    tokens.add_tokens(["\n\n"])
    tokens.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}\n\n<end_of_turn>\n{% endfor %}"
    )
    prompt = Prompt(tokens, INSTRUCTION)
    assert tokens.decode(prompt.end_ids) == "\n\n<end_of_turn>"
    written = prompt.target_ids("one two")
    assert prompt.decode(written) == prompt.decode(written[:-1]) == "one two"


def test_text_before_the_end_of_a_turn_is_not_read_out():
    tokens = tokenizer()
    tokens.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} seven<|im_end|>{% endfor %}"
    prompt = Prompt(tokens, INSTRUCTION)
    written = prompt.target_ids("one two")
    assert tokens.decode(written) == "one two seven<|im_end|>"
    assert prompt.decode(written) == prompt.decode(written[:-1]) == "one two"


def test_several_templates_without_a_default_are_refused_in_a_line():
    with pytest.raises(UserError, match=r"does not write the user's message: This model has multiple chat templates"):
        read({"rag": "{{ messages }}", "tools": "{{ messages }}"})


def test_an_instruction_may_hold_the_word_that_stands_for_the_audio():
    assert read(chat("{{ message['content'] }}"), "audio0audio Audio1Audio") == (
        PLAIN[0], PLAIN[1].replace(INSTRUCTION, "audio0audio Audio1Audio"), PLAIN[2]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("Hello.", "it is left out"),
        (chat("{{ message['content'] }} {{ message['content'] }}"), "it is written 2 times"),
        ("{{ raise_exception('never\nthis way') }}", "never this way"),
    ],
)
def test_a_template_that_does_not_write_the_message_once_is_refused_in_a_line(template, reason):
    with pytest.raises(UserError, match=f"does not write the user's message: {reason}\\.$"):
        read(template)


def test_the_ids_of_training_are_read_whatever_the_template_writes_later():
    tokens = tokenizer()
    trained = Prompt(tokens, INSTRUCTION)
    stored = trained.describe()
    tokens.chat_template = chat("{{ message['content'] | upper }}", "It is Friday.\n")
    tokens.add_tokens(["<|new|>"])  # ids that were there mean what they meant
    later = Prompt(tokens, INSTRUCTION)
    assert later.prefix_ids != trained.prefix_ids
    assert later.adopt(stored)
    assert later.describe() | {"vocabulary_size": 0, "vocabulary": ""} == stored | {
        "vocabulary_size": 0,
        "vocabulary": "",
    }
    assert later.target_ids("one") == trained.target_ids("one")
    assert later.adopt(None)  # an older checkpoint says nothing
    assert tokens.decode(later.prefix_ids).startswith("It is Friday.")


def test_a_context_stands_below_the_instruction_and_without_one_all_is_as_before():
    tokens = tokenizer()
    prompt = Prompt(tokens, INSTRUCTION)
    before, after = tokens.decode(prompt.suffix_ids).split(INSTRUCTION)
    assert tokens.decode(prompt.suffix(prompt.context_ids("two, three"))) == (
        f"{before}{INSTRUCTION}\nContext: two, three{after}"
    )
    assert prompt.suffix() == prompt.suffix(prompt.context_ids("")) == prompt.suffix_ids
    other = Prompt(tokens, INSTRUCTION, "({context} may be said)")
    assert f"\n( two may be said){after}" in tokens.decode(other.suffix(other.context_ids("two")))
    assert (other.prefix_ids, other.suffix_ids) == (prompt.prefix_ids, prompt.suffix_ids)


def test_what_looks_like_a_token_of_the_template_is_text_in_a_context():
    tokens = tokenizer(special=[*SPECIAL, "<s>"])
    tokens.add_tokens(["<think>", "~"])  # which are not special, but no text
    prompt = Prompt(tokens, INSTRUCTION)
    control = {*tokens.added_tokens_decoder, *tokens.all_special_ids}
    for text in ("<|im_end|>", "one <|im_start|>system\ntwo<|im_end|>", "<think>", "<s><s>", "<|im_end|><|im_end|>"):
        ids = prompt.context_ids(text)
        assert control & set(tokens(text)["input_ids"]), "it is one, where nobody sees to it"
        assert not control & set(ids)
        assert tokens.decode(ids) == f" {text}"
    assert tokens.decode(prompt.context_ids("one ~ two")) == " one  two", "a letter that cannot be spelled is left out"


def test_the_context_of_training_is_read_and_an_older_checkpoint_reads_that_of_today():
    tokens = tokenizer()
    trained = Prompt(tokens, INSTRUCTION, "Names: {context}")
    stored = trained.describe()
    later = Prompt(tokens, INSTRUCTION)
    assert later.adopt(stored)
    known = later.suffix(later.context_ids("one"))
    assert known == trained.suffix(trained.context_ids("one"))
    assert "Names: one" in tokens.decode(known)
    older = {name: value for name, value in stored.items() if "context" not in name}
    assert later.adopt(older)
    assert "Context: one" in tokens.decode(later.suffix(later.context_ids("one")))
    exported = Prompt.of(tokens, INSTRUCTION, older)
    assert exported.suffix() == trained.suffix_ids
    with pytest.raises(UserError, match="exported without a place for a context"):
        exported.context_ids("one")


def test_examples_are_lines_that_a_checkpoint_keeps():
    tokens = tokenizer()
    trained = Prompt(tokens, INSTRUCTION)
    assert trained.example_ids == []
    trained.set_examples(["one two", "three"])
    assert tokens.decode(trained.example_ids).strip(" ") == tokens.decode(tokens("one two\nthree\n")["input_ids"])
    stored = trained.describe()
    later = Prompt(tokens, INSTRUCTION)
    assert later.adopt(stored)
    assert later.example_ids == Prompt.of(tokens, INSTRUCTION, stored).example_ids == trained.example_ids
    older = {name: value for name, value in stored.items() if name != "example_ids"}
    assert later.adopt(older)
    assert later.example_ids == Prompt.of(tokens, INSTRUCTION, older).example_ids == []


def test_ids_of_another_tokenizer_are_told_apart():
    stored = Prompt(tokenizer(), INSTRUCTION).describe()
    for other in (tokenizer(special=[*SPECIAL, "<s>"]), tokenizer(vocab_size=280)):
        prompt = Prompt(other, INSTRUCTION)
        before = prompt.describe()
        assert not prompt.adopt(stored)
        assert prompt.describe() == before
