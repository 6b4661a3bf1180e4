"""WebSocket through a real Envoy, to the baseline and to a laptop: scenarios of `test_websocket.py`."""

from support.envoy import rerouted_way, way  # noqa: F401: fixtures
from test_websocket import (  # noqa: F401: scenarios and fixtures
    peer,
    test_a_client_that_is_gone_ends_the_tunnel,
    test_a_fragment_arrives_before_the_next_is_sent,
    test_messages_of_both_kinds_come_back_in_order,
    test_path_and_subprotocol_are_the_peers_business,
    test_rule_12_a_laptop_that_is_down_is_a_plain_502,
    test_the_clients_close_code_and_reason_arrive,
)
