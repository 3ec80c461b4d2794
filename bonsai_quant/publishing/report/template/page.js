"use strict";
(() => {
  const get = (id) => document.getElementById(id);
  const models = [...document.querySelectorAll(".ladder thead th")].map((t) => t.textContent);
  const cells = [...document.querySelectorAll(".ladder .zoom")];
  const picture = (row, model) => cells[row * models.length + model].querySelector("img");
  const measured = (row, model) =>
    [...cells[row * models.length + model].nextElementSibling.children]
      .map((figure) => figure.textContent).join(", ");

  function setUpComparison() {
    const [row, left, right, slide, stage] = ["row", "left", "right", "slide", "stage"].map(get);
    const difference = get("difference");
    const at = { divider: 50, gain: 4 };

    function show() {
      const apart = difference.checked;
      const r = Number(row.value), a = Number(left.value), b = Number(right.value);
      get("over").src = picture(r, a).src;
      get("under").src = picture(r, b).src;
      get("over").alt = picture(r, a).alt;
      get("under").alt = picture(r, b).alt;
      stage.classList.toggle("apart", apart);
      stage.style.setProperty("--at", at.divider + "%");
      stage.style.setProperty("--gain", at.gain);
      slide.setAttribute("aria-valuetext", apart ? at.gain + " times" : at.divider + " %");
      get("means").textContent = apart ? "Brighter" : "Divider";
      const words = [a, b].map((m) => models[m] + (measured(r, m) ? " (" + measured(r, m) + ")" : ""));
      get("says").textContent = apart
        ? "Difference of " + words.join(" and ") + ", " + at.gain + " times as bright; black is equal"
        : "Left: " + words[0] + ". Right: " + words[1];
    }

    function change() {
      const apart = difference.checked;
      [slide.min, slide.max] = apart ? ["1", "16"] : ["0", "100"];
      slide.value = apart ? at.gain : at.divider;
      show();
    }

    function follow(event) {
      if (difference.checked || (event.type === "pointermove" && !event.buttons)) return;
      const box = stage.getBoundingClientRect();
      at.divider = Math.round(100 * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)));
      slide.value = at.divider;
      show();
    }

    slide.addEventListener("input", () => {
      at[difference.checked ? "gain" : "divider"] = Number(slide.value);
      show();
    });
    for (const chosen of [row, left, right]) chosen.addEventListener("change", show);
    for (const view of [get("divided"), difference]) view.addEventListener("change", change);
    for (const kind of ["pointerdown", "pointermove"]) stage.addEventListener(kind, follow);
    stage.addEventListener("dragstart", (event) => event.preventDefault());
    get("compare").hidden = false;
    change();
  }

  function setUpZoom() {
    const box = get("enlarged");
    let now = 0;

    function show(index) {
      now = index;
      const row = Math.floor(now / models.length), model = now % models.length;
      get("large").src = picture(row, model).src;
      get("large").alt = picture(row, model).alt;
      get("caption").textContent =
        picture(row, model).alt + (measured(row, model) ? ": " + measured(row, model) : "");
    }

    function turn(by) {
      const start = now - (now % models.length);
      show(start + ((now - start + by + models.length) % models.length));
    }

    cells.forEach((cell, index) => cell.addEventListener("click", () => { show(index); box.showModal(); }));
    get("before").addEventListener("click", () => turn(-1));
    get("after").addEventListener("click", () => turn(1));
    get("close").addEventListener("click", () => box.close());
    box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
    box.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") turn(-1);
      if (event.key === "ArrowRight") turn(1);
    });
  }

  if (get("compare")) setUpComparison();
  if (cells.length) setUpZoom();
})();
