"""Tasks and jobs on the page."""

import re
from urllib.parse import urlsplit

import pytest

from tests.serving.page.actions import (
    ANSWER_MS,
    JOBS,
    TIGHT,
    expect,
    finished_jobs,
    held_back,
    open_film,
    open_requests,
    settle,
    sought_by,
    start_task,
    wait_for_replies,
    wait_for_request,
)
from tests.serving.page.conftest import LONG

JOB_LIST = re.compile(r"/v1/jobs(\?.*)?$")


PROGRESS = re.compile(r"/v1/jobs/[^/]+/events$")


def test_jobs_outlive_a_reload_and_open_their_result(page, server):
    open_film(page, server)
    start_task(page, "steps")
    page.reload()
    expect(page.locator(".lane[data-task=steps]")).to_have_count(1)
    page.locator(".lane[data-task=steps]").get_by_role("button", name="Hide Steps").click()
    expect(page.locator(".lane[data-task=steps]")).to_have_count(0)
    page.get_by_role("tab", name="Jobs").click()
    page.locator(".job[data-task=steps][data-status=succeeded] .job-open").first.click()
    expect(page.locator(".lane[data-task=steps]")).to_have_count(1)
    expect(page.get_by_role("tab", name="Events")).to_have_attribute("aria-selected", "true")


def test_the_page_reads_all_jobs_that_the_server_keeps(page, server):
    with page.expect_request(JOB_LIST) as request:
        open_film(page, server)
    assert urlsplit(request.value.url).query == "limit=1000"


def test_a_chosen_tab_stays_when_known_results_arrive(page, server):
    open_film(page, server)
    start_task(page, "steps")
    jobs = page.get_by_role("tab", name="Jobs")
    replies = open_requests(page, JOBS)
    with held_back(page, JOB_LIST) as held:
        page.reload()
        jobs.click()
        wait_for_request(page, held)
    expect(page.locator(".lane[data-task=steps]")).to_have_count(1)
    wait_for_replies(page, replies)  # nothing that comes later changes it
    expect(jobs).to_have_attribute("aria-selected", "true")


def test_a_chosen_tab_stays_when_a_task_ends_until_the_next(page, server):
    open_film(page, server)
    before = page.locator(".job[data-task=steps][data-status=succeeded]").count()
    jobs = page.get_by_role("tab", name="Jobs")
    replies = open_requests(page, JOBS)
    with held_back(page, PROGRESS) as held:
        page.locator(".task[data-task=steps]").click()
        jobs.click()
        wait_for_request(page, held)
    expect(page.locator(".job[data-task=steps][data-status=succeeded]")).to_have_count(before + 1, timeout=ANSWER_MS)
    wait_for_replies(page, replies)  # nothing that comes later changes it
    expect(jobs).to_have_attribute("aria-selected", "true")
    page.locator(".task[data-task=steps]").click()
    expect(page.get_by_role("tab", name="Events")).to_have_attribute("aria-selected", "true", timeout=ANSWER_MS)


def test_a_repeated_question_has_one_lane_also_after_a_reload(page, server):
    open_film(page, server, LONG)
    jobs = page.locator(".job[data-task=grounding][data-status=succeeded]")
    lanes = page.locator(".lane[data-task=grounding]")
    before = jobs.count()
    for asked in (1, 2):
        page.locator(".task[data-task=grounding]").click()
        page.keyboard.type("something appears")
        page.keyboard.press("Enter")
        expect(jobs).to_have_count(before + asked, timeout=ANSWER_MS)
        expect(lanes).to_have_count(1)
    page.reload()
    expect(lanes).to_have_count(1)
    expect(jobs.nth(before + 1)).to_be_attached()
    expect(lanes).to_have_count(1)


def test_a_running_task_can_be_cancelled(page, server):
    open_film(page, server, LONG)
    film = page.evaluate("new URLSearchParams(location.search).get('film')")
    ahead = [{"task": "dense_caption", "video": film, "window": window} for window in (2, 2.25, 2.5, 2.75)]
    jobs = [
        page.request.post(f"{server}/v1/jobs", data=body).json()["id"] for body in ahead
    ]  # so that it takes a while
    page.locator(".task[data-task=transcribe]").click()
    page.locator(".running-job[data-task=transcribe]").get_by_role("button", name="Cancel Speech").click()
    page.get_by_role("tab", name="Jobs").click()
    expect(page.locator(".job[data-task=transcribe]").first).to_have_attribute("data-status", "cancelled")
    for job in jobs:
        page.request.post(f"{server}/v1/jobs/{job}/cancel")


def test_a_late_response_does_not_revive_a_cancelled_job(page, server):
    open_film(page, server, LONG)
    film = page.evaluate("new URLSearchParams(location.search).get('film')")
    ahead = [
        page.request.post(f"{server}/v1/jobs", data={"task": "dense_caption", "video": film, "window": window}).json()
        for window in (2.1, 2.35, 2.6, 2.85)
    ]
    held = []

    def hold(route) -> None:
        held.append((route, route.fetch().json() | {"status": "running"}))

    page.route("**/cancel", hold)
    page.locator(".task[data-task=transcribe]").click()
    page.locator(".running-job[data-task=transcribe]").get_by_role("button", name="Cancel Speech").click()
    page.get_by_role("tab", name="Jobs").click()
    job = page.locator(".job[data-task=transcribe]").first
    expect(job).to_have_attribute("data-status", "cancelled", timeout=ANSWER_MS)
    ((route, body),) = held
    with page.expect_event("requestfinished", lambda request: request.url.endswith("/cancel")):
        route.fulfill(json=body)
    settle(page)  # the late response does not change it
    expect(job).to_have_attribute("data-status", "cancelled")
    for each in ahead:
        page.request.post(f"{server}/v1/jobs/{each['id']}/cancel")


def test_a_busy_server_is_reported_and_asked_again(page, server):
    replies = iter(["busy"])

    def answer(route) -> None:
        if route.request.method == "POST" and next(replies, None):
            error = {"message": "too many requests", "type": "rate_limit_error", "param": None, "code": None}
            route.fulfill(status=429, headers={"Retry-After": "1"}, json={"error": error})
        else:
            route.continue_()

    page.route("**/v1/jobs", answer)
    open_film(page, server)
    page.locator(".task[data-task=steps]").click()
    expect(page.get_by_text("The server is busy. Trying again in 1 s.")).to_be_visible()
    expect(page.locator(".lane[data-task=steps]")).to_have_count(1, timeout=ANSWER_MS)


def test_the_same_error_is_shown_once(page, server):
    open_film(page, server)
    page.route("**/v1/jobs", lambda route: route.abort() if route.request.method == "POST" else route.continue_())
    for _ in range(3):
        with page.expect_event("requestfailed"):
            page.locator(".task[data-task=steps]").click()
    expect(page.get_by_role("alert")).to_have_count(1)
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached.")


def test_a_task_shows_progress_and_its_events_can_be_played(page, server):
    open_film(page, server, LONG)
    page.locator(".task[data-task=dense_caption]").click()
    expect(page.locator(".running-job progress")).to_be_visible()
    lane = page.locator(".lane[data-task=dense_caption]")
    expect(lane).to_have_count(1, timeout=ANSWER_MS)  # perhaps that of an earlier test's answer, at once
    expect(page.locator(".running-job")).to_have_count(0, timeout=ANSWER_MS)
    row = page.locator(".row-open").nth(1)
    sought = sought_by(page, row)
    minutes, seconds = row.locator(".row-time").inner_text().split(" ")[0].split(":")
    assert sought == pytest.approx(60 * int(minutes) + float(seconds), abs=TIGHT)


def test_a_moment_is_found_by_its_query(page, server):
    sent = []
    page.on("request", lambda asked: asked.method == "POST" and sent.append((asked.url, asked.post_data_json)))
    open_film(page, server)
    page.locator(".task[data-task=grounding]").click()
    page.locator("#task-query").fill("the white square bounces")
    page.locator("#task-all").check()
    page.locator("#task-form").get_by_role("button", name="Find").click()
    expect(page.locator(".lane[data-task=grounding] .lane-title")).to_contain_text(
        "the white square bounces", timeout=ANSWER_MS
    )
    body = next(body for url, body in sent if url.endswith("/v1/jobs"))
    assert (body["task"], body["query"], body["find_all"]) == ("grounding", "the white square bounces", True)


def test_a_double_click_on_a_task_starts_it_once(page, server):
    open_film(page, server)
    sent = []
    page.on("request", lambda asked: asked.method == "POST" and sent.append(asked.url))
    page.locator(".task[data-task=steps]").dblclick()
    expect(page.locator(".lane[data-task=steps]")).to_have_count(1, timeout=ANSWER_MS)
    assert [url.rpartition("/")[2] for url in sent] == ["jobs"]


def test_highlights_have_a_curve(page, server):
    open_film(page, server)
    page.locator(".task[data-task=highlights]").click()
    expect(page.locator("#task-query")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#task-query")).to_be_hidden()  # the server has accepted the task
    lane = page.locator(".lane[data-task=highlights]")
    expect(lane.locator(".curve-line")).to_have_count(1, timeout=ANSWER_MS)
    assert lane.locator(".needle").count() > 1


def test_a_result_is_deleted_only_after_a_question(page, server):
    open_film(page, server)
    start_task(page, "steps")
    page.get_by_role("tab", name="Jobs").click()
    jobs = page.locator(".job[data-task=steps][data-status=succeeded]")
    before = len(finished_jobs(page, "steps"))
    expect(jobs).to_have_count(before)
    delete = jobs.first.get_by_role("button", name="Delete the result of Steps")
    delete.dblclick()
    expect(page.locator(".toast")).to_contain_text("Press again to delete the result of Steps.")
    settle(page)
    expect(jobs).to_have_count(before)
    delete.click()
    expect(jobs).to_have_count(before - 1)
    assert len(finished_jobs(page, "steps")) == before - 1


def test_a_held_enter_key_does_not_answer_a_question(page, server):
    open_film(page, server)
    start_task(page, "steps")
    page.get_by_role("tab", name="Jobs").click()
    jobs = page.locator(".job[data-task=steps][data-status=succeeded]")
    before = len(finished_jobs(page, "steps"))
    expect(jobs).to_have_count(before)
    jobs.first.get_by_role("button", name="Delete the result of Steps").focus()
    for _ in range(4):  # without a release: the browser sees a key that repeats
        page.keyboard.down("Enter")
    page.keyboard.up("Enter")
    expect(page.locator(".toast")).to_contain_text("Press again to delete the result of Steps.")
    settle(page)
    expect(jobs).to_have_count(before)
    page.keyboard.press("Enter")
    expect(jobs).to_have_count(before - 1)


def test_a_query_that_failed_stays_in_its_field(page, server):
    open_film(page, server)
    gone = [True]
    page.route("**/v1/jobs", lambda route: route.abort() if gone else route.continue_())
    page.locator(".task[data-task=grounding]").click()
    query = page.locator("#task-query")
    query.fill("the green heart leaves")
    query.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached.")
    expect(query).to_have_value("the green heart leaves")
    expect(query).to_be_focused()
    gone.clear()
    query.press("Enter")
    expect(page.locator("#task-form")).to_be_hidden()
    expect(query).to_have_value("")
    expect(page.locator(".task[data-task=grounding]")).to_be_focused()
    expect(page.locator(".lane[data-task=grounding] .lane-title", has_text="the green heart leaves")).to_have_count(
        1, timeout=ANSWER_MS
    )
