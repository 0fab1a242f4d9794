"""The page of the stored sweep in a real browser: it moves, it says so, and nothing else runs."""

import pytest

from fitclip_kit.slider.merges import Fusion
from fitclip_kit.slider.page import write_page
from tests.fitclip_kit.slider.hostile_sweep import material, sweep


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The page's address."""
    folder = tmp_path_factory.mktemp("browser")
    return write_page(sweep(), material(folder), folder / "explore.html").as_uri()


@pytest.fixture
def opened(browser, made):
    """A tab with the page; fails when the browser complained or asked for anything else."""
    problems: list[str] = []
    tab = browser.new_page(viewport={"width": 800, "height": 900})
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("dialog", lambda dialog: problems.append(dialog.message))
    tab.on("request", lambda request: problems.append(request.url[:200]))
    tab.goto(made)
    yield tab
    tab.close()
    assert [one for one in problems if one != made and one[:5] != "data:"] == []


def seen(tab, selector):
    return [one for one in tab.locator(selector).all() if one.is_visible()]


def test_keys_move_alpha_and_everything_follows(opened):
    slider = opened.get_by_label("α, weight of the student")
    swept = sweep()
    for key, alpha in (("Home", 0.0), ("ArrowRight", 0.25), ("End", 1.0), ("ArrowLeft", 0.5)):
        slider.press(key)
        assert opened.locator("#now").text_content() == f"{alpha:g}"
        assert slider.get_attribute("aria-valuetext") == f"alpha {alpha:g}"
        (caption,) = seen(opened, "[data-alpha] > .fk-scroll > table > caption")
        assert caption.text_content() == f"α = {alpha:g}, student 1"
        readings = [one.text_content() for one in seen(opened, ".fk-reading > span")]
        values = [100 * point.value for point in swept.points(Fusion.at(1, alpha)).values()]
        assert [one.split()[0] for one in readings] == [f"{value:.1f}" for value in values]
        marked = {one.text_content() for one in seen(opened, "thead .now")}
        assert marked == {f"{alpha:g}"}
        opened.get_by_role("status").filter(has_text=f"alpha {alpha:g}, student 1").wait_for(
            state="attached"
        )


def test_menus_choose_the_student_and_the_data_set(opened):
    opened.get_by_label("Student", exact=True).select_option("student 4")
    opened.get_by_label("Data set", exact=True).select_option("Acts")
    (caption,) = seen(opened, "[data-alpha] > .fk-scroll > table > caption")
    assert caption.text_content() == "α = 0.5, student 4"
    sections = seen(opened, "section[data-set]")
    assert len(sections) == 2 and "Acts" in sections[0].text_content()
    assert len(seen(opened, ".clip img")) == 3
    assert len(seen(opened, ".clip p[data-alpha]")) == 3
    opened.get_by_role("status").filter(has_text="student 4, Acts").wait_for(state="attached")


def test_hostile_captions_run_nothing_and_cover_nothing(opened):
    assert opened.title() == "Between teacher and student"
    assert opened.locator("script").count() == opened.locator("style").count() == 1
    assert opened.locator("img[src='x'], iframe, object").count() == 0
    assert opened.get_by_text("</script><script>alert(1)</script>").count() > 0


@pytest.mark.parametrize("width", [1280, 800, 390])
def test_it_fits_its_window(opened, width):
    opened.set_viewport_size({"width": width, "height": 900})
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
