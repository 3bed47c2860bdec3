"""deploy/Dockerfile: as hadolint wants it, and with all that cargo needs."""

import fnmatch
import json
import os
import re
import shutil

import pytest
from tools import DEPLOY, ROOT, WEIR, ask, complaint, toml, weir_check

TEXT = (DEPLOY / "Dockerfile").read_text()


def hadolint(text):
    return complaint("hadolint", "--failure-threshold", "style", "-", stdin=text)


def test_hadolint_has_nothing_to_say():
    assert hadolint(TEXT) == ""


@pytest.mark.parametrize("change", [("CMD [\"serve\"]", "CMD serve"), ("WORKDIR /src", "WORKDIR src"), ("ENTRYPOINT", "ENTRYPONT")])
def test_hadolint_finds_what_is_broken(change):
    assert change[0] in TEXT
    assert hadolint(TEXT.replace(*change)) != ""


def stages():
    """The last stage's lines, and the variables of all."""
    lines = re.sub(r"\\\n\s*", " ", TEXT).splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith("FROM "))
    return lines[:last], lines[last:]


def test_the_image_has_no_root_and_no_shell():
    _, last = stages()
    assert last[0].startswith("FROM gcr.io/distroless/cc-")
    assert [line for line in last if line.startswith("USER ")] == ["USER 65532:65532"]
    assert not [line for line in last if line.startswith("RUN ")], "nothing there could run it"
    assert any(line.startswith("VOLUME") and "/var/lib/weir" in line for line in last), "the root stays read-only"


def test_the_compiler_is_the_one_that_cargo_asks_for():
    assert re.search(r"^ARG RUST_VERSION=(.+)$", TEXT, re.M).group(1) == toml(ROOT / "Cargo.toml")["package"]["rust-version"]


def is_sent(path, rules):
    """Whether a file is part of the build's context: the last rule that matches it, or a folder above it, decides."""
    sent = True
    parts = path.split("/")
    for rule in rules:
        pattern = rule.removeprefix("!").removeprefix("**/")
        places = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
        names = parts if rule.startswith("**/") else places
        # As Docker has it, `*` stops at a slash.
        if any(fnmatch.fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for name in names):
            sent = rule.startswith("!")
    return sent


def context(rules):
    files = ask("git", "ls-files", "--cached", "--others", "--exclude-standard")[1].splitlines()
    return [file for file in files if is_sent(file, rules) and (ROOT / file).is_file()]


RULES = [line for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line and not line.startswith("#")]


def copied(rules, folder):
    """Lays out what the first stage has when cargo starts."""
    first, _ = stages()
    wanted = [words[1] for words in (line.split() for line in first) if words and words[0] == "COPY"]
    wanted += [word for line in first if line.startswith("COPY Cargo.toml") for word in line.split()[1:-1]]
    for file in context(rules):
        if any(file == name or file.startswith(f"{name}/") for name in wanted):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, folder / file)


def missing(folder):
    """What cargo and rustc would look for and not find."""
    # What Cargo.lock names has been fetched: the gateway was built.
    env = {name: value for name, value in os.environ.items() if name.startswith(("CARGO", "RUSTUP"))}
    code, text = ask("cargo", "metadata", "--offline", "--locked", "--format-version", "1", cwd=folder, env=env)
    if code:
        return text
    metadata = json.loads(text[text.index('{"packages"'):])
    root = metadata["resolve"]["root"]
    targets = next(package for package in metadata["packages"] if package["id"] == root)["targets"]
    known = {(kind, target["name"]) for target in targets for kind in target["kind"]}
    manifest = toml(ROOT / "Cargo.toml")
    declared = {(kind, target["name"]) for kind in ["bench", "test"] for target in manifest.get(kind, [])}
    found = "".join(f"no {kind} {name}\n" for kind, name in declared - known)
    for source in folder.glob("src/**/*.rs"):
        if "tests" in source.parts or source.name == "tests.rs":
            continue
        text = source.read_text()
        names = [source.parent / name for name in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', text)]
        names += [folder / name for name in re.findall(r'env!\("CARGO_MANIFEST_DIR"\),\s*"/(\w[^"]+\.\w+)"', text)]
        found += "".join(f"{source.relative_to(folder)}: {name}\n" for name in names if not name.is_file())
    return found


def test_cargo_finds_all_that_it_needs_in_the_image(tmp_path):
    copied(RULES, tmp_path)
    assert missing(tmp_path) == ""


@pytest.mark.parametrize("rule", ["!benches", "!config", "!models/poet/poet-q8_0.gguf", "!Cargo.lock"])
def test_a_file_that_is_not_sent_is_missed(tmp_path, rule):
    copied([line for line in RULES if line != rule], tmp_path)
    assert missing(tmp_path) != ""


def test_the_last_stage_copies_what_is_sent():
    sent = context(RULES)
    for line in stages()[1]:
        if line.startswith("COPY ") and "--from" not in line:
            assert line.split()[1] in sent, line


def test_secrets_and_builds_stay_outside_of_the_context():
    for file in ["deploy/.env", "target/debug/weir", ".git/config", "models/poet/model.safetensors"]:
        assert not is_sent(file, RULES), file


def test_the_image_asks_itself_how_it_is():
    _, last = stages()
    line = next(line for line in last if line.startswith("HEALTHCHECK "))
    command = json.loads(line.partition(" CMD ")[2])
    entrypoint = next(line for line in last if line.startswith("ENTRYPOINT "))
    assert command == [*json.loads(entrypoint.removeprefix("ENTRYPOINT ")), "health", "--live"]
    code, text = ask(WEIR, *command[1:], "--url", "http://127.0.0.1:1")
    assert code == 1 and "cannot connect" in text


def test_the_images_configuration_is_one(tmp_path):
    assert weir_check(DEPLOY / "weir.toml", tmp_path) == ""
