// What the theme leaves out: a box that scrolls is reached by keys, and neither the buttons of a block of code nor the
// parts of the table of contents, two of which may have one name, are one more navigation of the page. The theme makes
// these elements when the page is already there.
function mend() {
  for (const box of document.querySelectorAll("pre > code, .md-typeset__scrollwrap, .formula"))
    box.tabIndex = box.scrollWidth > box.clientWidth ? 0 : -1;
  for (const part of document.querySelectorAll(".md-code__nav, .md-nav--secondary nav")) {
    part.setAttribute("role", "none");
    part.removeAttribute("aria-label");
  }
}
new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
addEventListener("resize", mend);
mend();
