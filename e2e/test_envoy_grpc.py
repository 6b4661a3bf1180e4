"""gRPC through a real Envoy, to the baseline and to a laptop: scenarios of `test_grpc.py`, and retries."""

import pytest

from support.envoy import rerouted_way, way  # noqa: F401: fixtures
from test_grpc import (  # noqa: F401: scenarios and fixtures
    client,
    peer,
    test_a_cancelled_call_reaches_the_far_side,
    test_bidirectional_streaming_is_interleaved,
    test_client_streaming,
    test_errors_pass_with_text_and_details,
    test_many_calls_share_a_connection,
    test_rule_12_a_laptop_that_is_down_is_unavailable_and_says_why,
    test_rule_12_contracts_that_are_not_obeyed,
    test_rule_14_the_answer_says_who_gave_it,
    test_rule_17_unary_with_metadata_both_ways,
    test_server_streaming_is_not_held_back,
    test_trailers_only_answers_pass,
)


@pytest.fixture
def any_scheme():
    """gRPC is recognised by its content type."""
    return "http"
