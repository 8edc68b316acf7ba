"""Whose fault an answer says it is; the vendors' own forms, and others of their kind."""

from typing import Any

import pytest

from understudy.teachers.refusals import is_billing, is_prompts, what_stops

OPENAI = {"type": "invalid_request_error", "param": None, "message": "no"}


@pytest.mark.parametrize(
    "data",
    [
        {"error": {**OPENAI, "code": "content_policy_violation", "param": "prompt"}},
        {"error": {**OPENAI, "code": "moderation_blocked"}},
        {"error": {**OPENAI, "code": "string_above_max_length", "param": "prompt"}},
        {"error": {"code": "InputTextSensitiveContentDetected", "message": "x"}},
        {"error": {"code": "SensitiveContentDetected.PolicyViolation", "message": "x"}},
        {"error": {"code": 403, "message": "flagged", "metadata": {"reasons": ["violence"], "flagged_input": "a"}}},
        {"detail": [{"loc": ["body", "prompt"], "msg": "flagged", "type": "content_policy_violation"}]},
        {"detail": [{"loc": ["body", "input", "prompt"], "msg": "at most 800 characters", "type": "string_too_long"}]},
        {"detail": [{"msg": "flagged", "type": "content_policy_violation"}]},
        {"code": "DataInspectionFailed".replace("Failed", ""), "message": "x"},
        {"failureCode": "SAFETY.INPUT.TEXT", "failure": "x"},
        {"failure_code": "content_moderated"},
        {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}},
        {"error": "content_policy_violation"},
        {"error": {"type": "NSFW_CONTENT", "nsfw": True}},
        {"response": {"raiMediaFilteredReasons": ["violence"]}},
    ],
)
def test_the_prompt_s(data: Any) -> None:
    assert is_prompts(data)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "content_policy_violation",
        {},
        {"detail": "User is locked. Reason: Exhausted balance."},
        {"detail": 'Application "x" not found'},
        {"detail": [{"loc": ["body", "num_frames"], "msg": "ensure this value is less than or equal to 100"}]},
        {"detail": [{"loc": ["body", "prompt"], "msg": "Field required", "type": "missing"}]},
        {"detail": [{"loc": ["body", "prompt"], "msg": "too long"}, {"loc": ["body", "seed"], "msg": "too large"}]},
        {"error": {**OPENAI, "code": "billing_hard_limit_reached"}},
        {"error": {**OPENAI, "code": "invalid_value", "param": "size"}},
        {"error": {**OPENAI, "param": "prompt", "message": "Missing required parameter: 'prompt'."}},
        {"error": {**OPENAI, "message": "Your request violates our content policy"}},
        {"error": {"code": "moderation_service_unavailable", "message": "x"}},
        {"error": {"code": "safety_check_timeout", "message": "x"}},
        {"error": {"code": "account_policy_violation", "message": "x"}},
        {"error": {"code": "content_policy_not_accepted", "message": "x"}},
        {"error": {"code": "access_policy_denied", "message": "x"}},
        {"message": "Your organization must accept the usage policy first"},
        {"input": {"type": "nsfw", "flagged": True}, "error": {"code": "internal"}},
        {"nsfw": False, "has_nsfw_concepts": [False]},
        {"status": "failed", "error": "blocked by the content policy"},
    ],
)
def test_not_the_prompt_s(data: Any) -> None:
    assert not is_prompts(data)


def test_quota_and_billing_are_told_apart() -> None:
    assert is_billing({"error": {"code": "insufficient_quota"}})
    assert not is_billing({"error": {"code": "rate_limit_exceeded", "message": "see billing"}})
    said = {
        (403, "User is locked. Reason: Exhausted balance."): "the credit is used up",
        (402, ""): "the credit is used up",
        (403, "You exceeded your current quota"): "a limit of the account",
        (401, "no"): "refuses the key",
        (403, "API key has been revoked"): "refuses the key",
        (404, "not found"): "does not know this address or model",
        (422, "num_frames"): "refuses the request",
    }
    for (status, text), words in said.items():
        assert words in what_stops(status, text)
