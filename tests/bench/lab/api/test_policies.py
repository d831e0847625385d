"""The selection policies, over HTTP."""

import httpx

from bench.lab.api.policies import SENTENCES
from overlay.balancing import POLICIES, Balancing, canonical


async def test_each_policy_is_listed_with_a_sentence_and_its_other_names(
    api: httpx.AsyncClient,
) -> None:
    found = (await api.get("/policies")).raise_for_status().json()
    assert [policy["name"] for policy in found] == list(POLICIES)
    assert set(SENTENCES) == set(POLICIES)
    assert all(policy["description"].endswith(".") for policy in found)
    for policy in found:
        assert {canonical(name) for name in policy["spellings"]} <= {policy["name"]}
    by_name = {policy["name"]: policy for policy in found}
    assert "two_choices" in by_name["least_request"]["spellings"]
    assert [name for name in by_name if by_name[name]["default"]] == [Balancing().name]
    assert by_name["maglev"]["hashes"]
    assert by_name["weighted_random"]["weighted"]


async def test_their_form_is_documented(api: httpx.AsyncClient) -> None:
    document = (await api.get("/openapi.json")).json()
    answer = document["paths"]["/api/policies"]["get"]["responses"]["200"]
    item = answer["content"]["application/json"]["schema"]["items"]
    assert item == {"$ref": "#/components/schemas/PolicyShown"}
    assert "spellings" in document["components"]["schemas"]["PolicyShown"]["properties"]
