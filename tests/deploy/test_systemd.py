"""deploy/systemd: as systemd reads it, and locked down."""

import re

import pytest
from tools import AFTER_DRAIN, DEPLOY, ask, complaint, drain_timeout, seconds, weir_check

TEXT = (DEPLOY / "systemd/weir.service").read_text()
CONFIG = DEPLOY / "systemd/weir.toml"
# As systemd counts, ten times its exposure level: 20 is well within what it calls OK.
EXPOSURE = 20


def verify(text, tmp_path):
    """What systemd says against a unit, its warnings too. The program is one that is there."""
    unit = tmp_path / "weir.service"
    unit.write_text(text.replace("/usr/bin/weir", "/bin/true"))
    code, said = ask("systemd-analyze", "verify", "--recursive-errors=no", unit)
    return said or (f"exit code {code}" if code else "")


def security(text, tmp_path):
    unit = tmp_path / "weir.service"
    unit.write_text(text)
    return complaint("systemd-analyze", "security", "--no-pager", "--offline=true", f"--threshold={EXPOSURE}", unit)


def setting(name):
    return re.findall(rf"^{name}=(.*)$", TEXT, re.M)


def test_systemd_takes_it(tmp_path):
    assert verify(TEXT, tmp_path) == ""


@pytest.mark.parametrize("change", [
    ("Type=exec", "Type=exce"),
    ("StateDirectory=weir", "StateDirectry=weir"),
    ("TimeoutStopSec=75", "TimeoutStopSec=a while"),
    ("@system-service", "@sistem-service"),
    ("ExecStart=/usr/bin/weir", "ExecStart=/usr/bin/weird"),
])
def test_systemd_finds_what_is_broken(tmp_path, change):
    assert change[0] in TEXT
    assert verify(TEXT.replace(*change), tmp_path) != ""


def test_it_is_locked_down(tmp_path):
    assert security(TEXT, tmp_path) == ""


def test_less_is_found(tmp_path):
    open_ = re.sub(r"^(Protect|Private|Restrict|SystemCall|Capability|NoNew).*\n", "", TEXT, flags=re.M)
    assert security(open_, tmp_path) != ""


def test_it_has_time_to_drain():
    assert seconds(setting("TimeoutStopSec")[0]) >= drain_timeout(CONFIG) + AFTER_DRAIN


def test_a_reload_needs_no_credentials():
    assert setting("ExecReload") == ["/bin/kill -HUP $MAINPID"], "older systemd gives it none"


def test_the_configuration_is_one_with_the_credentials_that_are_loaded(tmp_path):
    names = [line.split(":")[0] for line in setting("LoadCredential")]
    for name in names:
        (tmp_path / name).write_text(f"{name}-0123456789")
    assert weir_check(CONFIG, tmp_path, CREDENTIALS_DIRECTORY=str(tmp_path)) == ""
    (tmp_path / names[0]).unlink()
    assert names[0] in weir_check(CONFIG, tmp_path, CREDENTIALS_DIRECTORY=str(tmp_path))
