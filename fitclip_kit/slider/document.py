"""What the page needs of the browser beyond ipywidgets: its layout and names for screen readers."""

from __future__ import annotations

from typing import Final

LAYOUT: Final = """
.fk-page { max-width: 1240px; margin: 0 auto; overflow: visible; }
.fk-page .widget-html-content { line-height: 1.45; }
.fk-page .widget-label { overflow: visible; }
.fk-live { position: absolute; width: 1px; height: 1px; margin: -1px; overflow: hidden;
  clip-path: inset(50%); white-space: nowrap; }
.fk-status { min-height: 2em; }
.fk-controls { position: sticky; top: 0; z-index: 2;
  background: #fff; border-bottom: 1px solid #d9d9d9; padding: 4px 0;
  box-shadow: 0 -12px 0 #fff; }
.fk-page .jupyter-widgets:focus-within, .fk-page button:focus-visible { outline-offset: 1px; }
.fk-page .noUi-handle:focus { outline: 2px solid #0173b2; outline-offset: 1px; }
.fk-progress .progress, .fk-own-progress .progress { margin: 0; height: 6px; }
/* The sliders stay in sight while one scrolls, which a box that clips its content would prevent. */
:is(.jp-OutputArea, .jp-OutputArea-child, .jp-OutputArea-output):has(.fk-page) {
  overflow: visible !important; }
.fk-page h2 { font-size: 17px; margin: 18px 0 6px; }
"""

# ipywidgets gives a slider's handle no name, and no region that announces changes.
SCRIPT: Final = """
(() => {
  const names = {"fk-alpha": "α, the student's share", "fk-text": "share in the text tower"};
  const regions = {"fk-live": "status", "fk-message": "alert"};
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
})();
"""
