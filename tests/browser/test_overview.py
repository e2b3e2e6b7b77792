"""The overview in a browser: the field, the kinds, the sentence and the rows show the neurons that the server lists."""

from polysem.client import characters


def ids(page):
    return page.locator(".row .id").all_inner_texts()


def n_shown(page):
    return int(page.locator(".howmany [role=status]").inner_text().split()[0].replace(",", ""))


def clearest(server, **options):
    return [str(n.id) for n in server.neurons(sort_by="-best_silhouette", limit=50, **options)]


def test_rows_are_the_clearest_neurons_with_their_largest_features(page, explorer, server):
    page.goto(explorer)
    assert ids(page) == clearest(server)
    row = page.locator(".row").first
    neuron = server.cluster(ids(page)[0], n_null=0)[0]
    many = [c for c in neuron.clusters if c.size > 1]
    assert row.locator(".ps-share li:not(.ps-rest)").count() == len(many)
    assert row.locator(".what .ps-chip").all_inner_texts() == [c.letter for c in many[:3]]
    for cluster, shown in zip(many, row.locator(".what > li").all(), strict=False):
        assert shown.locator(".ps-quiet").inner_text() == str(cluster.size)
        key = characters.named(neuron.examples[cluster.central].key_part)
        assert shown.locator(".ps-snippet b").inner_text().strip("␣") in key.replace("␠", "")
    assert f"{neuron.metrics.n_examples} example" in row.locator(".struct").inner_text()
    row.locator(".id").click()
    page.wait_for_url(f"**/neuron/{neuron.id}")


def test_more_rows_come_when_they_are_asked_for_and_the_address_keeps_them(page, explorer, server):
    page.goto(explorer)
    page.get_by_role("button", name="more").click()
    page.locator(".row").nth(50).wait_for()
    page.wait_for_url("**page=2")
    wanted = [str(n.id) for n in server.neurons(sort_by="-best_silhouette", limit=100)]
    assert ids(page) == wanted
    page.reload()
    page.locator(".row").nth(99).wait_for()
    assert ids(page) == wanted


def test_a_cell_of_the_field_shows_its_neurons(page, explorer, server):
    summary = server.neurons(summary=True, limit=1).summary
    page.goto(explorer)
    assert page.locator(".field a").count() == (summary.clarity > 0).sum()
    cell = page.locator(".field a").last
    words = cell.get_attribute("aria-label")
    layer, clear, n = int(words.split()[1].strip(",")), float(words.split()[3]), int(words.split()[6])
    assert n == summary.clarity[summary.layers.tolist().index(layer), round(20 * clear)]
    cell.click()
    page.wait_for_url(f"**layer={layer}&clear={clear:g}")
    assert n_shown(page) == n == len(ids(page))
    assert page.locator(".field a[aria-current]").count() == 1
    assert page.locator(".field a").count() == (summary.clarity > 0).sum()  # the others are counted as before
    page.locator(".field a[aria-current]").click()
    page.wait_for_url(lambda url: "clear" not in url)


def test_the_field_is_one_stop_of_the_tab_key_and_arrows_go_through_it(page, explorer):
    page.goto(explorer)
    assert page.locator(".field a[tabindex='0']").count() == 1
    page.locator(".field a[tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    words = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert words.startswith("layer 1")
    page.keyboard.press("Enter")
    page.wait_for_url("**layer=1&clear=**")


def test_kinds_and_the_sentence_filter(page, explorer, server):
    kinds = server.neurons(summary=True, limit=1).summary.kinds
    page.goto(explorer)
    found = {
        link.locator("span").inner_text(): int(link.locator("b").inner_text())
        for link in page.locator(".kinds a").all()
    }
    assert found == {
        "one feature": kinds["one"], "a few features": kinds["few"], "several features": kinds["several"],
        "blurred": kinds["blurred"], "too few examples": kinds["too_few"],
    }  # fmt: skip
    page.locator(".kinds a", has_text="several").click()
    page.wait_for_url("**kind=several")
    assert n_shown(page) == kinds["several"]
    assert ids(page) == clearest(server, kind="several")
    page.get_by_label("layer", exact=True).select_option("1")
    page.wait_for_url("**layer=1**")
    assert ids(page) == [str(n.id) for n in server.neurons("1.*", kind="several", sort_by="-best_silhouette", limit=50)]
    page.get_by_label("order").select_option("by number")
    page.wait_for_url("**sort_by=-**")
    assert ids(page) == [str(n.id) for n in server.neurons("1.*", kind="several", limit=50)]
    page.locator(".kinds a[aria-current]").click()
    page.wait_for_url(lambda url: "kind" not in url)
    assert page.get_by_label("layer", exact=True).input_value() == "1"


def test_the_table_is_a_click_away_and_keeps_the_choices(page, explorer):
    page.goto(f"{explorer}/?layer=1")
    n = n_shown(page)
    page.get_by_role("link", name="table").click()
    page.wait_for_url("**look=table**")
    assert f"of {n} neurons" in page.locator("main").inner_text()
    page.get_by_role("link", name="Rows with features").click()
    page.locator(".row").first.wait_for()
    assert n_shown(page) == n


def test_only_layers_and_sides_that_the_index_holds_can_be_chosen(page, explorer, server):
    page.goto(f"{explorer}/?index=few")
    assert page.get_by_label("layer", exact=True).locator("option").all_inner_texts() == ["every layer", "layer 1"]
    assert page.locator(".field .name").all_text_contents() == ["layer 1"]
    page.get_by_label("side").select_option("negative side")
    page.wait_for_url("**side=negative**")
    assert page.locator(".row").count() > 0


def test_beside_the_clear_stands_what_chance_gives_where_the_index_holds_tests(page, explorer, server):
    (first,) = server.neurons(index="few", sort_by="-excess_silhouette", limit=1)
    page.goto(f"{explorer}/?index=few")
    assert ids(page)[0] == str(first.id)
    clear, chance = first.null_silhouette + first.excess_silhouette, first.null_silhouette
    assert f"clear {clear:.2f} · by chance {chance:.2f}" in page.locator(".struct").first.inner_text()
    assert "no more than chance" in page.locator(".kinds").inner_text()


def test_nothing_found_is_told(page, explorer):
    page.goto(f"{explorer}/?least_n_examples=100000")
    assert "No neuron is so" in page.locator("main").inner_text()
    page.get_by_role("link", name="Show all").click()
    page.wait_for_url(lambda url: "least" not in url)
    assert page.locator(".row").count() == 50


def test_keys_go_through_the_rows(page, explorer):
    page.goto(explorer)
    names = ids(page)
    for key, place in (("j", 0), ("j", 1), ("k", 0)):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.textContent") == names[place]


def test_it_fits_a_phone(page, explorer):
    page.set_viewport_size({"width": 390, "height": 844})
    for path in ("/", "/text?text=tea", "/?look=table"):
        page.goto(explorer + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
