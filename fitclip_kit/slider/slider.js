(() => {
  "use strict";

  // The page of the stored sweep: choose which of its pieces are seen.
  function choosePieces(page) {
    const find = (id) => document.getElementById(id);
    const controls = { alpha: find("alpha"), student: find("student"), set: find("set") };
    const pieces = page.querySelectorAll("[data-alpha], [data-student], [data-set]");
    const columns = page.querySelectorAll("[data-column]");
    let waiting = 0;

    function show() {
      const chosen = {};
      for (const name in controls) chosen[name] = controls[name].value;
      for (const piece of pieces) {
        const differs = (name) => name in piece.dataset && piece.dataset[name] !== chosen[name];
        piece.classList.toggle("off", Object.keys(chosen).some(differs));
      }
      for (const cell of columns)
        cell.classList.toggle("now", cell.dataset.column === chosen.alpha);
      const alpha = controls.alpha.list.options[chosen.alpha].label;
      find("now").value = alpha;
      controls.alpha.setAttribute("aria-valuetext", "alpha " + alpha);
      clearTimeout(waiting);
      waiting = setTimeout(say, 300, chosen, alpha);
    }

    function say(chosen, alpha) {
      const piece = page.querySelector(
        `.spoken[data-alpha="${chosen.alpha}"][data-student="${chosen.student}"]` +
        `[data-set="${chosen.set}"]`
      );
      find("live").textContent = piece ? piece.textContent : "alpha " + alpha;
    }

    for (const name in controls) controls[name].addEventListener("input", show);
    show();
  }

  // The live page: ipywidgets gives a slider's handle no name, and no region that announces changes.
  function nameForReaders() {
    const names = { "fk-alpha": "α, the student's share", "fk-text": "share in the text tower" };
    const regions = { "fk-live": "status", "fk-message": "alert" };
    const name = () => {
      for (const [part, text] of Object.entries(names))
        document.querySelectorAll(`.${part} .noUi-handle:not([aria-label])`)
          .forEach(handle => handle.setAttribute("aria-label", text));
      for (const [part, role] of Object.entries(regions))
        document.querySelectorAll(`.${part} .widget-html-content:not([role])`).forEach(region => {
          region.setAttribute("role", role);
          region.setAttribute("aria-live", role === "alert" ? "assertive" : "polite");
        });
    };
    new MutationObserver(name).observe(document.body, {
      childList: true, subtree: true, attributes: true, attributeFilter: ["class"],
    });
    name();
  }

  const stored = document.querySelector(".fk-stored");
  if (stored) choosePieces(stored); else nameForReaders();
})();
