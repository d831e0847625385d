import json
from random import Random

import pytest

from bench.lab.errors import BadInput
from bench.lab.loading.k6 import read_k6
from bench.lab.loading.plan import make_plan

SCRIPT = """
import http from 'k6/http';
import { sleep, check } from 'k6';

const BASE = "http://127.0.0.1:8080"; // where it runs
const RATE = 50;

export const options = {
  scenarios: {
    steady: {
      executor: 'constant-arrival-rate',
      rate: RATE, timeUnit: '1s',
      duration: '10s',
      preAllocatedVUs: 20, // "not" a text
      exec: 'other',
    },
    ramp: { executor: 'ramping-arrival-rate', startRate: 60, timeUnit: '1m', startTime: '5s',
            stages: [{ target: 10, duration: '30s' }, { target: 0, duration: '1m30s' }] },
  },
  thresholds: { http_req_failed: ['rate<0.01'] },
};

export default function () {
  const answer = http.get(`${BASE}/list?n=1`, { headers: { 'X-A': 'b' }, tags: { a: 'b' } });
  http.post(BASE + '/built', 'x');
  http.get('http://elsewhere.org/x');
  check(answer, { 'is 200': (r) => r.status === 200 });
}
"""


def test_a_scenario_with_a_rate_is_a_profile_and_the_rest_is_named() -> None:
    found = read_k6(SCRIPT)
    assert found.plan == {
        "target": "http://127.0.0.1:8080/",
        "requests": [{"method": "GET", "path": "/list?n=1", "kwargs": {"headers": {"X-A": "b"}}}],
        "profile": "stages:50,10s:50",
    }
    notes = "\n".join(found.notes)
    for said in (
        "http.post(BASE + '/built', x): its URL is no literal",
        "left out: requests for http://elsewhere.org",
        "left out: scenario ramp; choose it with --scenario",
        "the option thresholds",
        "exec of scenario steady",
    ):
        assert said in notes
    assert len(list(make_plan(found.plan).times(Random(0)))) == 500


def test_another_scenario_is_chosen_by_its_name() -> None:
    assert read_k6(SCRIPT, "ramp").plan["profile"] == (
        "stages:0,5s:0,0s:1,30s:0.166666666667,90s:0"
    )
    with pytest.raises(BadInput, match="no scenario 'other'; there are steady, ramp"):
        read_k6(SCRIPT, "other")


def script(options: str, body: str = "") -> str:
    return f"export let options = {options}\nexport default () => {{ {body} }}\n"


ONE = "http.get('http://h/');"


@pytest.mark.parametrize(
    ("options", "body", "expected"),
    [
        ("{ vus: 10, duration: '30s' }", ONE, {"at_once": 10, "duration": 30}),
        ("{ vus: 10, duration: '30s' }", ONE + "sleep(2);", {"profile": "stages:5,30s:5"}),
        ("{ vus: 4, iterations: 100 }", ONE * 2, {"at_once": 4, "count": 200}),
        ("{}", ONE, {"at_once": 1, "count": 1}),
        (
            "{ stages: [{ duration: '1m', target: 20 }] }",
            ONE + ONE + "sleep(0.5)",
            {"profile": "stages:4,60s:80"},
        ),
        (
            "{ scenarios: { a: { executor: 'per-vu-iterations', vus: 3, iterations: 5 } } }",
            ONE,
            {"at_once": 3, "count": 15},
        ),
        (
            """{ scenarios: { a: { executor: 'constant-arrival-rate', rate: 30, timeUnit: '1m',
                                   duration: 2000 } } }""",
            ONE,
            {"profile": "stages:0.5,2s:0.5"},
        ),
    ],
)
def test_executors_become_what_they_mean_here(
    options: str, body: str, expected: dict[str, object]
) -> None:
    plan = read_k6(script(options, body)).plan
    assert {name: plan[name] for name in expected} == expected
    make_plan(plan)


def test_bodies_are_taken_where_they_are_literals() -> None:
    body = """
      const who = { name: 'ada' };
      http.post('http://h/json', JSON.stringify({ a: [1, 'b'], who }),
                { headers: { 'Content-Type': 'application/json' } });
      http.post('http://h/form', { a: '1' });
      http.put('http://h/text', "it's \\u0041");
      http.del('http://h/one');
      http.request('PATCH', 'http://h/p', null);
      http.post('http://h/made', make());
    """
    found = read_k6(script("{ vus: 1, iterations: 1 }", body))
    assert [(one["method"], one["path"], one.get("kwargs")) for one in found.plan["requests"]] == [
        (
            "POST",
            "/json",
            {
                "content": '{"a":[1,"b"],"who":{"name":"ada"}}',
                "headers": {"Content-Type": "application/json"},
            },
        ),
        ("POST", "/form", {"data": {"a": "1"}}),
        ("PUT", "/text", {"content": "it's A"}),
        ("DELETE", "/one", None),
        ("PATCH", "/p", None),
    ]
    assert any("make()" in note and "body is no literal" in note for note in found.notes)


def test_options_as_k6_prints_them_are_read() -> None:
    options = {"scenarios": {"a": {"executor": "constant-vus", "vus": 2, "duration": "5s"}}}
    assert read_k6(json.dumps(options)).plan == {"at_once": 2, "duration": 5}


@pytest.mark.parametrize(
    "values", [{"rate": 40.0, "count": 400}, {"values": {"rate": 40, "count": 400}}]
)
def test_a_summary_gives_its_mean_rate(values: dict[str, object]) -> None:
    found = read_k6(json.dumps({"metrics": {"http_reqs": values}}))
    assert found.plan == {"profile": "constant:40", "duration": 10.0}
    assert "mean" in found.notes[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (script("{ stages: [{ duration: '1m', target: 20 }] }", ONE), "ramping-arrival-rate"),
        (script("makeOptions()"), "no literal: makeOptions"),
        (script("{ scenarios: build() }", ONE), "no literal"),
        (script("{ vus: 2, duration: __ENV.D }", ONE), "no duration"),
        (
            script("{ scenarios: { a: { executor: 'externally-controlled' } } }"),
            "cannot be converted",
        ),
        (script("{ scenarios: { a: { rate: 5 } } }"), "executor"),
        (script("{ vus: "), "no literal"),
        ("export let options =", "cannot be read"),
        ("[]", "neither a k6 script"),
        ('{"metrics": {}}', "no http_reqs"),
    ],
)
def test_what_is_no_load_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        read_k6(text)
