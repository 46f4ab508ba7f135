// Renders the formulas of a page, also after instant navigation.
const renderFormulas = () =>
  renderMathInElement(document.body, {
    delimiters: [
      { left: "\\[", right: "\\]", display: true },
      { left: "\\(", right: "\\)", display: false },
    ],
  });
window.addEventListener("load", () => {
  if (typeof document$ === "undefined") renderFormulas();
  else document$.subscribe(renderFormulas);
});
