// Runs before the page is drawn, so that it does not flash in the other colours.
(() => {
  let kept = null;
  try { kept = localStorage.getItem("timechat.theme"); } catch { /* storage is switched off: the system decides */ }
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
})();
