"""Programs that become services: `python service.py` is all that their users type."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.network import environment
from bench.puma_program import PumaProgram, puma_program
from overlay.testing_ports import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # whole networks, one after the other

COMMAND_TIMEOUT_S = 120.0
END_TIMEOUT_S = 60.0

FIGURE_6 = """\
import asyncio
import puma

async def app_function(
    data: list
) -> list:

    def fac_l(n):
        total = n
        for i in range(n - 1, 0, -1):
            total *= i
        return total

    result = await puma.puma_map(
        fac_l, data
    )
    return result
"""
"""As the paper has it."""

LISTING_2 = """\
from dialogueCtrl import dialogueCtrl, initResources, dialogueIdle
import json
import puma_lib
import inspect

def service1():
    _text = request.form['chatText']
    _mode = request.form['mode']
    _id = str(request.form['UUID'])
    if _id == '-1':
        _id = str(uuid.uuid4())
    # app specific python container
    response, userid, passiveLen, signal = dctrl.dialogueCtrl(json.dumps({'text': _text, \
'mode': _mode, 'id': _id}))
    if signal != "listen":
        dctrl.dialogueIdle(userid, debug=True)
    return json.dumps({'response': response, 'userid': userid, 'signal': signal, \
'passiveLen': passiveLen})

conf = {}
conf['puma-services'] = {
    "service1": "/agent",
    "service2": "/listener",
}
puma_config(json.dumps(conf))

service = {
    "service1": inspect.getsourcelines(service1())
}

puma_service(json.dumps(service))

if __name__ == "__main__":
    initResources()
    puma_start()
"""
"""As the paper's appendix has it."""

SLIPS = [
    ("import puma_lib", "from myxo.puma import puma_config, puma_service, puma_start"),
    ("import inspect\n", "import inspect\nimport uuid\nimport dialogueCtrl as dctrl\n"),
    ('    "service2": "/listener",\n', ""),  # it has no code
    ("getsourcelines(service1())", "getsourcelines(service1)"),
]
"""Names that it uses and does not import, a service without code, a call too many."""

DIALOGUE = """\
import json

def initResources():
    print("resources are there")

def dialogueIdle(userid, debug):
    pass

def dialogueCtrl(data):
    said = json.loads(data)
    return said["text"][::-1], said["id"], 0, said["mode"]
"""


def get(program: PumaProgram, path: str, **arguments: Any) -> httpx.Response:
    return httpx.get(program.url(path), timeout=60, **arguments)


def post(program: PumaProgram, path: str, **arguments: Any) -> httpx.Response:
    return httpx.post(program.url(path), timeout=60, **arguments)


@pytest.fixture
def own(tmp_path: Path) -> dict[str, str]:
    """The environment of a user of their own."""
    return environment(tmp_path)


def running_with(state: str) -> list[int]:
    """Return the processes whose environment or command names a state directory."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            told = (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if state.encode() in told:
            found.append(int(folder.name))
    return found


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + END_TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


SERVICE = """\
import os
from pathlib import Path

from myxo import puma

from words import GREETING

def policy():
    name = request.form.get("name", "nobody")
    return {"said": f"{GREETING}, {name}", "pid": os.getpid(), "at": request.path}

puma.puma_config({
    "puma_services": {"service1": "/policy", "face-2": "/deep/face"},
    "load_balancer": "round_robin",
    "logging": {
        "name": "front",
        "filter": {"status_code_filter": {"comparison": {"op": "LE", "value": 299}}},
        "config": {"path": "access.log", "format": "%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE%"},
    },
    "rate_limit": {"cluster_name": "face-2", "requests_per_unit": 1, "unit": "hour", "burst": 2},
    "http_connection_manager": {
        "idle_timeout": "60s", "drain_timeout": 1, "rds": "routes.json",
        "route_config": {"/also": "service1"},
    },
})
puma.puma_service({"service1": policy, "face-2": "def face():\\n    return request.method\\n"})
puma.puma_start()
"""


def test_one_command_founds_a_network_and_every_key_does_what_it_names(
    tmp_path: Path, own: dict[str, str]
) -> None:
    (tmp_path / "words.py").write_text('GREETING = "good day"\n')
    (tmp_path / "routes.json").write_text("{}")
    program = tmp_path / "service.py"
    program.write_text(SERVICE)
    with puma_program(program, own) as running:
        posted = post(running, "/policy/x", data={"name": "Ada"})
        assert posted.json()["said"] == "good day, Ada"
        assert posted.json()["at"] == "/x"
        assert posted.json()["pid"] != running.started.process.pid
        assert post(running, "/policy", json={"name": "Bo"}).json()["said"] == "good day, Bo"
        assert get(running, "/policy?name=Cy").json()["said"] == "good day, Cy"
        assert get(running, "/also?name=Di").json()["said"] == "good day, Di"
        assert get(running, "/new").status_code == 404
        fresh = tmp_path / "routes.new"
        fresh.write_text('{"/new": "service1"}')
        fresh.replace(tmp_path / "routes.json")
        until(lambda: get(running, "/new").status_code == 200)
        faces = [get(running, "/deep/face").status_code for _ in range(3)]
        assert faces == [200, 200, 429]
        assert get(running, "/policy").json()["said"] == "good day, nobody"
        assert running.started.interrupt() == 0, running.started.printed()
    logged = (tmp_path / "access.log").read_text().splitlines()
    assert logged[:4] == [
        "POST /policy/x 200",
        "POST /policy 200",
        "GET /policy?name=Cy 200",
        "GET /also?name=Di 200",
    ]
    assert logged[-3:] == ["GET /deep/face 200", "GET /deep/face 200", "GET /policy 200"]
    assert not running_with(own["MYXO_STATE_DIR"])
    assert "Traceback" not in running.started.printed()


def test_the_papers_programs_run(tmp_path: Path, own: dict[str, str]) -> None:
    """Listing 2 with its slips mended, and Figure 6 beside it with its import line changed."""
    text = LISTING_2
    for slip, mended in SLIPS:
        assert text.count(slip) == 1
        text = text.replace(slip, mended)
    program = tmp_path / "service.py"
    program.write_text(text)
    (tmp_path / "dialogueCtrl.py").write_text(DIALOGUE)
    figure = tmp_path / "figure_6.py"
    figure.write_text(FIGURE_6.replace("import puma\n", "from myxo import puma\n"))
    with puma_program(program, own) as running:
        told = {"chatText": "abc", "mode": "listen", "UUID": "-1"}
        answer = json.loads(post(running, "/agent", data=told).text)
        assert (answer["response"], answer["signal"], answer["passiveLen"]) == ("cba", "listen", 0)
        assert len(answer["userid"]) == 36
        call = "import asyncio, figure_6 as f; print(asyncio.run(f.app_function([1, 5, 10])))"
        mapped = subprocess.run(
            [sys.executable, "-c", call],
            cwd=tmp_path,
            env=running.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert (mapped.stdout, mapped.stderr) == ("[1, 120, 3628800]\n", "")
    assert "resources are there" in running.started.printed()


def test_in_a_network_that_is_there_only_the_front_is_started_and_ended(
    process_network: Any, tmp_path: Path
) -> None:
    program = tmp_path / "there.py"
    program.write_text(
        "from myxo.puma import puma_config, puma_service, puma_start\n"
        "import os\n"
        "def pid():\n"
        "    return str(os.getpid())\n"
        'puma_config({"puma_services": {"pid": "/"}})\n'
        "puma_service(pid)\n"
        "puma_start()\n"
    )
    with puma_program(program, process_network.program_environment) as running:
        instance = int(get(running, "/").text)
        listed = process_network.registry_cli("list").stdout
        assert "there-pid-" in listed
        assert running.started.interrupt() == 0, running.started.printed()
    assert "there-pid-" not in process_network.registry_cli("list").stdout
    until(lambda: not Path(f"/proc/{instance}").exists())
    process_network.no_traceback()


DATABASE = """\
from myxo import puma

puma.puma_config({
    "puma_services": {"service5": "/db"},
    "dynamodb": {"config": {"endpoints": ["%s", "%s"]}},
})
puma.puma_start()
"""

CLIENT = """\
import json, sys
import boto3

def at(url):
    return boto3.client("dynamodb", endpoint_url=url, region_name="eu-central-1",
                        aws_access_key_id="id", aws_secret_access_key="secret")

front, *servers = map(at, sys.argv[1:])
for server in servers:
    server.create_table(TableName="visits", BillingMode="PAY_PER_REQUEST",
                        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
                        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}])
for n in range(40):
    front.put_item(TableName="visits", Item={"id": {"S": str(n)}})
found = [[item["id"]["S"] for item in s.scan(TableName="visits")["Items"]] for s in servers]
print(json.dumps(found))
"""


@contextmanager
def dynamodb(folder: Path) -> Iterator[str]:
    """Run moto's server, which speaks as DynamoDB does; yield its address."""
    (port,) = free_ports(1)
    program = Path(sys.executable).with_name("moto_server")
    with (folder / f"moto-{port}.log").open("wb") as log:
        command = [str(program), "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            transport = httpx.HTTPTransport(retries=9)  # 0, 0.5, 1, 2, … s between them
            with httpx.Client(transport=transport, timeout=60) as client:
                client.get(f"http://127.0.0.1:{port}/moto-api/data.json")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(END_TIMEOUT_S)


def test_a_database_is_reached_balanced_at_its_path(tmp_path: Path, own: dict[str, str]) -> None:
    program, client = tmp_path / "service.py", tmp_path / "client.py"
    client.write_text(CLIENT)
    with dynamodb(tmp_path) as one, dynamodb(tmp_path) as other:
        program.write_text(DATABASE % (one, other))
        with puma_program(program, own) as running:
            urls = [f"http://localhost:{running.port}/db", f"http://{one}", f"http://{other}"]
            done = subprocess.run(
                [sys.executable, client, *urls],
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            here, there = json.loads(done.stdout)
    assert sorted(here + there, key=int) == [str(n) for n in range(40)]
    assert min(len(here), len(there)) >= 5


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('puma_config({"puma_services": {"a": "/a"}})', "no code for it"),
        ("puma_service({'b': 'def f(): return 1'})", "call puma_config before"),
        ('puma_config({"puma_servces": {"a": "/a"}})', "did you mean puma_services"),
        ("puma_service({'b': 'def f(): return nothing'})", "b uses nothing, which neither"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_started(
    tmp_path: Path, own: dict[str, str], lines: str, said: str
) -> None:
    program = tmp_path / "wrong.py"
    program.write_text(f"from myxo.puma import *\n{lines}\npuma_start()\n")
    done = subprocess.run(
        [sys.executable, program], env=own, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
    assert not (tmp_path / "state").exists()
