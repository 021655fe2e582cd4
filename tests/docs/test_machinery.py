"""What a page gets wrong is found: the tests of the pages can fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.config import Config
from tests.docs import answers, console, installed, nginx, shown, stand_ins, test_inline, yaml_kinds
from tests.docs.blocks import INDENTED, Block, Directive, DirectiveError, blocks, blocks_in, directive, pages
from tests.docs.surroundings import OFFICIAL, TOKEN, surroundings
from tests.docs.test_blocks import KINDS

NOTHING = "<!-- test: "


def one(text: str) -> Block:
    (block,) = blocks_in(text)
    return block


def fenced(language: str, text: str, words: str = "") -> str:
    above = f"<!-- test: {words} -->\n" if words else ""
    return f"{above}```{language}\n{text}\n```\n"


def test_every_page_is_looked_at_and_none_is_empty_of_meaning() -> None:
    """Pages that come later are found by themselves."""
    names = {page.name for page in pages()}
    assert {"README.md", "CONTRIBUTING.md", "operation.md", "configuration.md"} <= names
    assert len(blocks()) > 60
    assert {block.language for block in blocks()} <= set(KINDS)


@pytest.mark.parametrize(
    ("line", "said", "fits"),
    [
        ("Age: 1", "Age: 0", True),
        ("Age: 1", "Ages: 0", False),
        ("Cache-Status: bybit-gateway; hit; ttl=0", "Cache-Status: bybit-gateway; hit; ttl=-12", True),
        ("Cache-Status: bybit-gateway; hit; ttl=0", "Cache-Status: bybit-gateway; fwd=uri-miss", False),
        ("HTTP/1.1 503 Service Unavailable", "HTTP/1.1 502 Bad Gateway", False),
        ('{"retCode":0}', '{"retCode":10006}', False),
        ("525,600 candles in 4.4 s", "1,000 candles in 12 s", True),
        ("525,600 candles in 4.4 s", "1,000 rows in 12 s", False),
        ("X-Request-Id: 52f6098800000001", "X-Request-Id: 0b1c2d3e4f506172", True),
        ("rules: ... and 3 more", "rules: a, b, c and 7 more", True),
        ("rules: … and 3 more", "rules: a, b, c or 7 more", False),
        ("at 2026-11-20T17:11:59.600219Z", "at 2027-01-02T03:04:05Z", True),
        ("a line", "a line and more", False),
    ],
)
def test_words_must_be_the_same_and_figures_need_not(line: str, said: str, fits: bool) -> None:
    """Codes of HTTP and of the exchange are words."""
    assert (shown.missing([line], f"before\n{said}\nafter") is None) is fits


def test_lines_must_come_in_the_order_in_which_they_are_shown() -> None:
    assert shown.missing(["one", "two"], "one\ntwo") is None
    assert shown.missing(["two", "one"], "one\ntwo") == "one"
    assert shown.missing(["one", "…", "three"], "one\ntwo\nthree") is None


@pytest.mark.parametrize(
    ("wanted", "real", "found"),
    [
        ({"a": 1}, {"a": 2.5, "b": 3}, None),
        ({"a": 1}, {"b": 1}, "a is not in the answer"),
        ({"a": {"b": 1}}, {"a": {"b": "1"}}, "a.b is '1', not 1"),
        ({"a": True}, {"a": False}, None),
        ({"a": True}, {"a": 1}, "a is 1, not True"),
        ({"a": "up"}, {"a": "down"}, "a is 'down', not 'up'"),
        ({"a": "65200.1"}, {"a": "64000"}, None),
        ({"a": None}, {"a": 7}, None),
        ({"a": 7}, {"a": None}, None),
        ({"a": [{"b": 1}]}, {"a": []}, "a is empty"),
        ({"a": [{"b": 1}]}, {"a": [{"c": 1}]}, "a[0].b is not in the answer"),
    ],
)
def test_fields_and_types_of_an_answer_must_be_there(wanted: object, real: object, found: str | None) -> None:
    assert shown.differs(wanted, real) == found


def test_json_may_leave_out() -> None:
    assert answers.read('{"a": 1, ...}') == {"a": 1}
    assert answers.read('{"a": …, "b": [1, ...]}') == {"a": None, "b": [1]}
    assert answers.read('"store": {"mode": "..."}') == {"store": {"mode": "..."}}
    with pytest.raises(AssertionError, match="not JSON"):
        answers.read('{"a": 1,, "b": 2}')


@pytest.mark.parametrize("words", ["follow", "runs", "GET health", "not run:", "header X", "by tests/x.py"])
def test_a_word_that_means_nothing_is_refused(words: str) -> None:
    with pytest.raises(DirectiveError):
        directive(words)


def test_a_comment_is_read() -> None:
    assert directive("not run: needs a cluster; really") == Directive(not_run="needs a cluster; really")
    told = directive("GET /health; header X-A: b: c; when it was asked; fails")
    assert told.asks == ("GET", "/health")
    assert told.headers == (("X-A", "b: c"),)
    assert (told.when, told.fails) == ("it was asked", True)
    assert directive("by tests/image/test_run.py, alone").by == ("tests/image/test_run.py", "alone")


def test_a_comment_that_stands_apart_or_follows_nothing_is_refused() -> None:
    with pytest.raises(DirectiveError, match="directly above"):
        blocks_in(f"{NOTHING}follows -->\n\n```yaml\na: 1\n```\n")
    with pytest.raises(DirectiveError, match="nothing above"):
        blocks_in(fenced("yaml", "a: 1", "follows"))


def test_an_indented_block_and_one_without_a_language_are_found() -> None:
    assert one("text\n\n    make bench\n").language == INDENTED
    assert one("```\nx\n```\n").language == ""
    assert {INDENTED, ""}.isdisjoint(KINDS)


def test_commands_are_told_from_what_they_say() -> None:
    block = one(
        fenced(
            "console",
            "$ one \\\n  --more     # it's a comment\nsaid\n\n$ python -c 'a\nb'\n"
            "$ cat <<EOF > x\n$ not a command\nEOF\nsaid too",
        )
    )
    assert [(each.text, each.shown) for each in block.commands] == [
        ("one \\\n  --more     # it's a comment", ("said",)),
        ("python -c 'a\nb'", ()),
        ("cat <<EOF > x\n$ not a command\nEOF", ("said too",)),
    ]
    with pytest.raises(AssertionError, match="begins with a command"):
        _ = one(fenced("console", "said")).commands


def test_what_cannot_be_typed_is_replaced_by_what_can() -> None:
    assert stand_ins.replaced("make test   # all of it").startswith("make -n ")
    assert " -n " not in stand_ins.replaced("make run")
    assert stand_ins.replaced(".venv/bin/pip install '.[otel]'") == "python -m tests.docs.installed '.[otel]'"
    assert stand_ins.beyond_reach("kubectl apply -k x") is not None
    assert stand_ins.beyond_reach("kubectl kustomize x") is None
    for typed in ["docker run x", "REPLICAS=5 A=b docker compose up", "cd x && docker ps", "sudo docker ps"]:
        with pytest.raises(AssertionError, match="by FILE"):
            stand_ins.beyond_reach(typed)
    assert stand_ins.programs("A=b curl x | jq .y; (promtool z)") == ["curl", "jq", "promtool"]


def test_an_extra_that_is_not_declared_is_found() -> None:
    assert installed.missing(".[otel,postgres]") == []
    assert installed.missing(".[nothing]") == ["the extra nothing"]
    assert installed.missing("no-such-library-at-all") == ["no-such-library-at-all"]


async def test_configuration_that_the_gateway_refuses_is_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"queue\.max_waits"):
        await yaml_kinds.judge(one(fenced("yaml", "queue: {max_waits: 8s}")), tmp_path)
    await yaml_kinds.judge(one(fenced("yaml", "queue: {max_waits: 8s}", "fails")), tmp_path)
    tokens, rule = blocks_in(
        fenced("yaml", "identity: {tokens: [{name: a, token: 0123456789, tier: FREE}]}")
        + fenced("yaml", "identity: {assign: [{match: {token: a}, tier: PREMIUM}]}", "follows")
    )
    await yaml_kinds.judge(tokens, tmp_path)
    await yaml_kinds.judge(rule, tmp_path)
    with pytest.raises(AssertionError, match="refuses"):
        yaml_kinds.judge_environment(one(fenced("env", "GATEWAY__QUEUE__MAX_WAITS=8s")), tmp_path)
    given = (
        "REDIS_URL_FILE=/run/secrets/redis-url\nGATEWAY__ADMIN__TOKEN_FILE=/run/secrets/token   # a comment\nWORKERS=2"
    )
    yaml_kinds.judge_environment(one(fenced("env", given)), tmp_path)


async def test_objects_that_kubernetes_would_refuse_are_found(tmp_path: Path) -> None:
    """Parts of a container are put into one, parts of a pod into a pod."""
    await yaml_kinds.judge(one(fenced("yaml", "livenessProbe: {httpGet: {path: /health/live, port: 8080}}")), tmp_path)
    with pytest.raises(AssertionError, match="httpPut"):
        await yaml_kinds.judge(one(fenced("yaml", "livenessProbe: {httpPut: {path: /health/live}}")), tmp_path)


async def test_what_nginx_would_refuse_is_found(tmp_path: Path) -> None:
    """A part of a configuration is put where it belongs; names of services need not be known here."""
    await nginx.judge("upstream gateways { server gateway:8080; }", tmp_path)
    await nginx.judge("proxy_pass http://gateway:8080;\nproxy_http_version 1.1;", tmp_path)
    with pytest.raises(AssertionError, match="proxy_http_versions"):
        await nginx.judge("proxy_http_versions 1.1;", tmp_path)


def test_names_that_are_not_there_are_found(tmp_path: Path) -> None:
    """Fields, words of the code, headings, commands that nothing executes."""
    assert test_inline.is_field(Config, ["queue", "max_wait"])
    assert test_inline.is_field(Config, ["listen", "max_*"])
    assert test_inline.is_field(Config, ["identity", "tiers", "FREE", "second"])
    assert not test_inline.is_field(Config, ["queue", "max_waits"])
    assert not test_inline.is_field(Config, ["queue", "max_wait", "more"])
    assert test_inline.is_variable("UPSTREAM__CA_FILE")
    assert test_inline.is_variable("ADMIN__TOKEN_FILE")
    assert not test_inline.is_variable("ADMIN__TOKENS_FILE")
    assert test_inline.occurs("X-Gateway-Max-Wait")
    assert not test_inline.occurs("gateway_" + "never_heard_of")
    page = tmp_path / "page.md"
    page.write_text("# The `cache`, and candles\n\n## A heading\n\n## A heading\n")
    assert test_inline.anchors(page) == {"the-cache-and-candles", "a-heading", "a-heading-1"}
    assert test_inline.is_command("curl -s http://127.0.0.1:8080/health")
    assert not test_inline.is_command("curl")
    assert not test_inline.is_command("python -m proxy check")


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("$ echo one; false", "ended with 1"),
        ("$ echo one\ntwo", "is shown to say:\ntwo"),
        ("$ curl -s http://127.0.0.1:8080/gateway/none", "ended with 22"),
        ("$ curl -s -m 20 http://example.com/", "ended with"),
        ("$ curl -s -m 20 http://192.0.2.1/", "ended with"),
    ],
)
async def test_a_command_that_fails_says_something_else_or_leaves_this_machine_is_found(
    typed: str, found: str, tmp_path: Path, checkout: Path
) -> None:
    block = one(fenced("console", typed))
    async with surroundings(checkout, tmp_path, block.text) as at:
        with pytest.raises(AssertionError, match=found):
            await console.execute(block, at)


async def test_what_runs_on_must_be_seen_to_do_so(tmp_path: Path, checkout: Path) -> None:
    """A command that ends at once with a mistake is not one that runs on."""
    for number, typed in enumerate(["$ make runs", "$ echo one\ntwo", "$ echo one; exit 1\ntwo"]):
        block = one(fenced("console", typed, "runs on"))
        async with surroundings(checkout, tmp_path / str(number), block.text) as at:
            with pytest.raises(AssertionError, match=r"runs on|ended"):
                await console.execute(block, at)


async def test_commands_of_a_block_share_a_shell_and_those_above_come_first(tmp_path: Path, checkout: Path) -> None:
    """`cd`, variables and files last to the end, and into the block that follows."""
    _, second = blocks_in(
        fenced("console", "$ cd docs\n$ WORD=seen")
        + fenced("console", "$ echo $WORD in $(basename $PWD)\nseen in docs", "follows")
    )
    async with surroundings(checkout, tmp_path, second.text) as at:
        await console.execute(second, at)


async def test_ports_and_the_exchange_are_others_than_a_users(tmp_path: Path, checkout: Path) -> None:
    """A gateway that stands on 8080 of this machine is never asked, nor is the real exchange."""
    async with surroundings(checkout, tmp_path, "$TOKEN 8080") as at:
        typed = at.here(f"curl http://127.0.0.1:8080/ {OFFICIAL}/v5/ :9443 :9444 18080 8080.5")
        assert at.environment["TOKEN"] == TOKEN
        assert at.there(f"-> {at.exchange.url}") == f"-> {OFFICIAL}"
    assert "//127.0.0.1:8080/" not in typed
    assert OFFICIAL not in typed
    assert "18080" in typed
    assert json.dumps(dict(at.environment)).count("api.bybit.com") == 0
