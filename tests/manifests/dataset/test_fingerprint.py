"""What must stay the same between the runs of a folder, and what it may learn later."""

from __future__ import annotations

import pytest

from wanbatch.errors import UserError
from wanbatch.manifests.dataset.fingerprint import changes, completed, decoding_changes
from wanbatch.manifests.dataset.folder import OutputFolder, is_of_other_settings
from wanbatch.manifests.dataset.status import status


def test_values_are_named_by_their_keys():
    assert changes({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2}) == ["a.b was 1, now 3"]
    assert changes({"a": 1}, {}) == ["a was 1, now not set"]


def test_an_environment_is_compared_where_both_know_it():
    assert changes({"environment": {"torch": "1"}}, {"environment": {"torch": "1", "device_name": "x"}}) == []
    assert changes({}, {"environment": {"torch": "1"}}) == []
    assert changes({"environment": {"torch": "1"}}, {"environment": {"torch": "2"}}) == [
        'environment.torch was "1", now "2"'
    ]


def test_how_sources_are_decoded_may_change_and_is_told():
    now = {"a": 1, "source_decoding": {"version": 2, "pillow": "13"}}
    for recorded, told in (
        ({"a": 1}, ["version was 1, now 2"]),  # release 0.1.0 noted nothing
        ({"a": 1, "source_decoding": {"version": 2, "pillow": "12"}}, ['pillow was "12", now "13"']),
        (now, []),
    ):
        assert changes(recorded, now) == []
        assert decoding_changes(recorded, now) == told
        assert completed(recorded, now) == recorded, "what was noted first stays, so that it is told each time"


def test_devices_may_be_mixed_from_some_run_on():
    one = {"a": 1, "environment": {"torch": "1", "device_name": "x", "backends": {"text": "b"}}}
    other = {"a": 1, "environment": {"torch": "1", "device_name": "y", "backends": {"text": "c"}}}
    mixed = {**other, "mixed_devices": True}
    assert len(changes(one, other)) == 2
    assert changes(one, mixed) == []
    assert completed(one, mixed) == {**one, "mixed_devices": True}
    assert changes({**one, "mixed_devices": True}, one) == ["mixed_devices was true, now not set"]
    newer = {**mixed, "environment": {**mixed["environment"], "torch": "2"}}
    assert changes(one, newer) == ['environment.torch was "1", now "2"'], "all else must stay the same"


def test_what_was_recorded_first_stays():
    assert completed({"a": 1, "environment": {"x": 1}}, {"a": 2, "environment": {"x": 2, "y": 3}}) == {
        "a": 1,
        "environment": {"x": 1, "y": 3},
    }
    assert completed({"a": 1}, {"a": 1}) == {"a": 1}


def test_a_folder_learns_its_environment(tmp_path):
    out = tmp_path / "out"
    OutputFolder.open(out, {"model": "tiny"}).close()
    with OutputFolder.open(out, {"model": "tiny", "environment": {"torch": "2.13.0"}}) as folder:
        assert status(out)["fingerprint"]["environment"] == {"torch": "2.13.0"}
        folder.record_environment({"backends": {"denoise": "eager"}})
        folder.record_environment({"backends": {"denoise": "eager"}})
        with pytest.raises(UserError, match=r'environment\.backends\.denoise was "eager", now "kernels"'):
            folder.record_environment({"backends": {"denoise": "kernels"}})
    recorded = {"torch": "2.13.0", "backends": {"denoise": "eager"}}
    assert status(out)["fingerprint"]["environment"] == recorded
    assert is_of_other_settings(out, {"model": "tiny", "environment": {"torch": "2.14.0"}})
    with pytest.raises(UserError, match=r'environment\.torch was "2\.13\.0", now "2\.14\.0"'):
        OutputFolder.open(out, {"model": "tiny", "environment": {"torch": "2.14.0"}})
