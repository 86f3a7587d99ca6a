"""Settings of serving and rolling out, from the environment."""

import pytest

from scripts.settings import Settings


def test_environment_sets_what_it_names_and_nothing_else():
    given = {"SEEFOOD_GRACE_S": "1.5", "SEEFOOD_KEEP_ARCHIVES": "7", "SEEFOOD_LOG_JSON": "True", "PATH": "x"}
    assert Settings.from_environment(given) == Settings(grace_s=1.5, keep_archives=7, log_json=True)
    assert Settings.from_environment({"SEEFOOD_TAG": "set by make for docker-compose.yml"}) == Settings()


def test_unknown_setting_is_refused_by_name_and_the_known_ones_are_told():
    with pytest.raises(ValueError, match="SEEFOOD_GRACE is set, expected one of .*'SEEFOOD_GRACE_S'"):
        Settings.from_environment({"SEEFOOD_GRACE": "1"})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *(("SEEFOOD_POLL_S", value, "a number") for value in ("soon", "", "-1", "nan", "inf", "1e99")),
        *(("SEEFOOD_KEEP_ARCHIVES", value, "a number") for value in ("1.5", "many")),
        *(("SEEFOOD_LOG_JSON", value, "true or false") for value in ("1", "yes", "")),
    ],
)
def test_setting_that_cannot_be_is_refused_by_name_and_value(name, value, expected):
    with pytest.raises(ValueError, match=f"{name} is {value!r}, expected {expected}"):
        Settings.from_environment({name: value})
