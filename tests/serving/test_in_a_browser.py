"""The page in headless Chromium, on a phone and on a desk, with everything outside refused."""

from __future__ import annotations

import csv
import io

import pytest

SCRIPT = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\"> {{ 7 * 7 }}"


def fits(page) -> bool:
    """Whether nothing is cut off to the right, and what is touched is large enough."""
    sizes = page.evaluate(
        "[...document.querySelectorAll('button, select, input:not([type=hidden]), textarea, summary, label.check')]"
        ".filter(e => e.checkVisibility() && e.type !== 'checkbox').map(e => e.getBoundingClientRect().height)"
    )
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth") and min(sizes) >= 32


@pytest.mark.parametrize("size", ["phone", "desktop"])
def test_two_models_write_side_by_side(visit, serve, make_model, size):
    client = serve(make_model("demo: plain"), make_model("demo: detour"))
    page = visit(f"http://127.0.0.1:{client.port}/", size, "dark" if size == "phone" else "light")
    page.fill("#text", SCRIPT)
    assert page.text_content("#length") == f"{len(SCRIPT)} of 20,000 characters"
    page.get_by_label("Language of the output").select_option("da_DK")
    assert "Danish" in page.locator("select[name=target_lang] option:checked").text_content()
    page.click("summary")
    page.fill("input[name=num_beams]", "2")
    page.fill("input[name=num_return_sequences]", "2")
    page.click("#write")
    outputs = page.locator(".output")
    outputs.nth(3).wait_for()
    assert outputs.all_text_contents() == [f"{SCRIPT[::-1]} 2{n}" for n in ("", "1")] * 2
    assert page.locator("#answers h3").all_text_contents() == ["demo: plain", "demo: detour"]
    assert outputs.first.get_attribute("lang") == "da-DK"
    said = page.locator("#answers .note").last.text_content()
    assert said.startswith("uk_UA to da_DK, 0.0") and " s; of the text's" in said
    assert fits(page)


def test_what_users_write_is_text(visit, serve, make_model):
    """Names of models, outputs, errors and rows of files."""
    client = serve(make_model(SCRIPT))
    page = visit(f"http://127.0.0.1:{client.port}/")
    page.fill("#text", SCRIPT[::-1])
    page.keyboard.press("Control+Enter")
    page.locator(".output").wait_for()
    assert page.text_content(".output") == f"{SCRIPT} 4"
    page.set_input_files("input[type=file]", {"name": "a.csv", "mimeType": "text/csv", "buffer": b"text\nx\n"})
    page.fill("input[name=text_column]", SCRIPT)
    page.get_by_text("Write for all rows").click()
    page.locator("#said .error").wait_for()
    assert SCRIPT in page.text_content("#said")
    assert page.title() == "polygraft"
    assert page.locator("main img, main script").count() == 0
    assert [one for one in visit.errors if "422" not in one] == []
    visit.errors.clear()


@pytest.mark.parametrize("size", ["phone", "desktop"])
def test_a_file_with_progress_and_a_download(visit, serve, size):
    client = serve(per_device_eval_batch_size=2)
    page = visit(f"http://127.0.0.1:{client.port}/", size)
    rows = "text,n\n" + "".join(f'"row, {n}\n""x""",{n}\n' for n in range(5))
    page.set_input_files("input[type=file]", {"name": "My rows.CSV", "mimeType": "", "buffer": rows.encode()})
    client.engine.gate.clear()
    page.get_by_text("Write for all rows").click()
    page.get_by_text("sending").wait_for()
    assert page.locator("#stop").is_visible()
    client.engine.gate.set()
    with page.expect_download() as caught:
        page.get_by_text("Download outputs.csv").click()
    assert page.text_content("#said") == "Download outputs.csv 5 rows."
    assert caught.value.suggested_filename == "outputs.csv"
    written = list(csv.reader(io.StringIO(caught.value.path().read_text(encoding="utf-8"))))
    assert written[0] == ["text", "n", "prediction"]
    assert [row[2] for row in written[1:]] == [f'"x"\n{n} ,wor 4' for n in range(5)]
    assert fits(page)


def test_a_file_that_is_stopped(visit, serve, wait_until):
    client = serve(per_device_eval_batch_size=1)
    page = visit(f"http://127.0.0.1:{client.port}/")
    client.engine.gate.clear()
    page.set_input_files("input[type=file]", {"name": "a.txt", "mimeType": "", "buffer": b"a\n" * 9})
    page.get_by_text("Write for all rows").click()
    page.click("#stop")
    page.get_by_text("Stopped.").wait_for()
    wait_until(lambda: not client.service.files.of)
    client.engine.gate.set()
    assert len(client.engine.calls) <= 1


def test_the_token_is_asked_for(visit, serve):
    token = "0123456789abcdef"
    client = serve(token=token)
    page = visit(f"http://127.0.0.1:{client.port}/", "phone")
    page.get_by_label("The token of this server").fill("wrong")
    page.click("button")
    page.get_by_text("That is not the token").wait_for()
    page.get_by_label("The token of this server").fill(token)
    page.click("button")
    page.fill("#text", "abc")
    page.click("#write")
    page.locator(".output").wait_for()
    assert token not in page.url and token not in page.evaluate("document.cookie")
    assert [one for one in visit.errors if "401" not in one] == []
    visit.errors.clear()


def test_a_page_of_another_site_reaches_nothing(visit, serve, tmp_path):
    """A stranger's page tries what such pages can; here the browser refuses nothing, so that the server has to."""
    client = serve()
    stranger = tmp_path / "stranger.html"
    stranger.write_text("<!doctype html><title>stranger</title>")
    page = visit(stranger.as_uri())
    page.context.unroute_all()
    tries = """async (address) => {
      const said = [];
      for (const how of [{}, {mode: "no-cors"}, {method: "POST", mode: "no-cors", body: '{"texts": ["a"]}'},
          {method: "POST", body: '{"texts": ["a"]}', headers: {"Content-Type": "application/json"}}])
        said.push(await fetch(address, how).then(answer => answer.type, () => "refused"));
      return said;
    }"""
    found = page.evaluate(tries, f"http://127.0.0.1:{client.port}/api/generate")
    assert set(found) <= {"refused", "opaque"}
    assert client.engine.calls == []
    visit.errors.clear()
