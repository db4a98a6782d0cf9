// Read before the page is drawn, so that it never flashes in the other colours.
(() => {
  let kept = null;
  try { kept = localStorage.getItem("timechat.theme"); } catch { /* storage is switched off: the system decides */ }
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
})();
