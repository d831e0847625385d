"""The API as servers name it, with the settings of the environment: `bench.lab.api.app:app`."""

from bench.lab.api.application import make_app
from bench.lab.api.overlay_network import open_network
from bench.lab.api.settings import ApiSettings

app = make_app(ApiSettings.load({}), open_network)
