// Marks where a scrolling part goes on beyond its edge, so that the style sheet can show it.

const SLACK = 2; // pixels that rounding may leave

function mark(part) {
  const { scrollLeft, scrollTop, scrollWidth, scrollHeight, clientWidth, clientHeight } = part;
  part.classList.toggle("more-left", scrollLeft > SLACK);
  part.classList.toggle("more-right", scrollLeft + clientWidth < scrollWidth - SLACK);
  part.classList.toggle("more-below", scrollTop + clientHeight < scrollHeight - SLACK);
}

/** Keep the marks of a part right while it scrolls, and while it or its content changes its size. */
export function markOverflow(part) {
  const sizes = new ResizeObserver(() => mark(part));
  for (const watched of [part, ...part.children]) sizes.observe(watched);
  part.addEventListener("scroll", () => mark(part), { passive: true });
}
