import pytest

from bench.lab.errors import BadInput
from bench.lab.traces.env_file import parsed_env
from bench.lab.traces.parameters import Distribution, Parameters

GENERAL = """\
SAMPLES=500
SIZE=500
INTER_ARRIVAL=1
READ_RATIO=80
SAS=5493
DISTRIBUTION=3
MEAN=1
STDEV=1
CONCURRENCY=1
ST=100
DELAY=100
SERVER_IP=148.247.201.222
SERVER_PORT=56789
API_VERSION=v1.41
"""


def test_the_seeds_file_says_what_a_trace_is_made_by() -> None:
    said = parsed_env(GENERAL.splitlines(), ".env.general")
    assert Parameters.of(said) == Parameters(
        samples=500,
        size=500,
        inter_arrival=1,
        read_ratio=80,
        sas=5493,
        distribution=Distribution.NORMAL,
        mean=1,
        stdev=1,
        concurrency=1,
    )
    assert (said["ST"], said["SERVER_PORT"], said["API_VERSION"]) == ("100", "56789", "v1.41")


def test_a_file_is_read_as_a_shell_reads_it() -> None:
    text = '# a remark\n\nexport SAMPLES=10 # ten\nSIZE = "20"\nSAS=\n'
    assert parsed_env(text.splitlines(), "f") == {"SAMPLES": "10", "SIZE": "20"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SAMPLES=1\nSAMPELS=2", "line 2 of f sets 'SAMPELS'.*did you mean SAMPLES"),
        ("samples", "line 1 of f is 'samples'; a line is NAME=value"),
        ("HOME=/root", "nothing here reads; there is API_VERSION"),
    ],
)
def test_a_line_that_is_none_is_named(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        parsed_env(text.splitlines(), "f")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"SAMPLES": "0"}, "samples is 0; it must be 1 to 2,000,000"),
        ({"SAMPLES": "1.5"}, "SAMPLES is '1.5'; it must be a whole number"),
        ({"SIZE": "big"}, "SIZE is 'big'; it must be a number"),
        ({"READ_RATIO": "101"}, "read_ratio is 101; it must be 0 to 100"),
        ({"INTER_ARRIVAL": "-1"}, "INTER_ARRIVAL is '-1'; it must be 0 or more"),
        ({"INTER_ARRIVAL": "0"}, "all requests would come at once"),
        ({"DISTRIBUTION": "4"}, r"uniform \(1\), poisson \(2\), normal \(3\)"),
        ({"DISTRIBUTION": "normal", "MEAN": "0"}, "mean and stdev are both 0"),
    ],
)
def test_what_cannot_be_used_is_named(said: dict[str, str], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        Parameters.of(said)


def test_mean_and_stdev_are_the_normal_distributions_alone() -> None:
    uniform = Parameters.of({"DISTRIBUTION": "1", "MEAN": "0", "STDEV": "0"})
    assert uniform.distribution is Distribution.UNIFORM


def test_a_normal_distribution_follows_the_mean_time_unless_it_has_one_of_its_own() -> None:
    normal = Parameters(inter_arrival=6, distribution=Distribution.NORMAL)
    assert (normal.normal_mean, normal.normal_stdev) == (6, 2)
