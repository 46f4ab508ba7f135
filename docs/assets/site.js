// What the theme leaves out: a box that scrolls is reached by keys, and the buttons of a block of code are not one more
// navigation of the page. The theme makes these elements when the page is already there.
function mend() {
  for (const box of document.querySelectorAll("pre > code, .md-typeset__scrollwrap, div.formula"))
    box.tabIndex = box.scrollWidth > box.clientWidth ? 0 : -1;
  for (const buttons of document.querySelectorAll(".md-code__nav")) buttons.setAttribute("role", "none");
}
new MutationObserver(mend).observe(document.body, { childList: true, subtree: true });
addEventListener("resize", mend);
mend();
