// Conversion of seconds to text and back.

/** `75.25` as `1:15` (digits 0) or `1:15.3` (digits 1); from an hour on `1:02:03`. */
export function formatTime(seconds, digits = 0) {
  const unit = 10 ** digits;
  const total = Math.max(0, digits ? Math.round(seconds * unit) / unit : Math.floor(seconds + 1e-6));
  const hours = Math.floor(total / 3600);
  const minutes = Math.floor(total / 60) % 60;
  const rest = (total - hours * 3600 - minutes * 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

export const formatRange = (event) =>
  event.end > event.start ? `${formatTime(event.start, 1)} – ${formatTime(event.end, 1)}` : formatTime(event.start, 1);

/** The length of a video: tenths if it is short. */
export const formatLength = (seconds) => formatTime(seconds, seconds < 10 ? 1 : 0);

/** Seconds of `75.25`, `1:15.25` or `1:02:03`; null for any other text. */
export function parseTime(text) {
  const match = /^(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:\.\d+)?)$/.exec(text.trim().replace(",", "."));
  if (!match || (match[2] && Number(match[3]) >= 60) || (match[1] && Number(match[2]) >= 60)) return null; // "1:99"
  return Number(match[1] ?? 0) * 3600 + Number(match[2] ?? 0) * 60 + Number(match[3]);
}

/** Why a text is not a time. */
export function timeProblem(text) {
  const written = `“${text.trim()}” is not a time`;
  if (/:[6-9]\d:/.test(text)) return `${written}: minutes between two colons go up to 59.`;
  if (/:(?:[6-9]\d|\d{3,})(?:[.,]\d+)?\s*$/.test(text)) return `${written}: seconds after a colon go up to 59.`;
  return `${written}: write seconds (75.5), minutes and seconds (1:15.5), or hours too (1:02:03).`;
}

const CLOCK = String.raw`(?:\d{1,2}:)?\d{1,2}:\d{2}(?:\.\d+)?`;
const NUMBER = String.raw`\d+(?:\.\d+)?`;
const DASH = String.raw`\s*(?:[-–—]|to)\s*`;
const TIMES = new RegExp(
  [
    String.raw`\[?\b(?<clock>${CLOCK})(?:${DASH}${CLOCK})?\b\]?`,
    String.raw`\b(?<list>${NUMBER}(?:,\s*${NUMBER})+(?:,?\s*and\s+${NUMBER})?)(?=\s*(?:seconds?|secs?|s)\b)`,
    String.raw`\[?\b(?<seconds>${NUMBER})(?:\s*(?:seconds?|secs?|s)?${DASH}${NUMBER})?\s*(?:seconds?|secs?|s)\b\]?`,
  ].join("|"),
  "g",
);

/** The text in pieces `{text, time}`; `time` is in seconds if the piece is a time of a video of `duration`, else null. */
export function splitTimes(text, duration = Infinity) {
  const pieces = [];
  let last = 0;
  const push = (until, from, time) => {
    if (from > last) pieces.push({ text: text.slice(last, from), time: null });
    pieces.push({ text: text.slice(from, until), time });
    last = until;
  };
  const isInside = (time) => time !== null && time <= duration + 0.5;
  for (const match of text.matchAll(TIMES)) {
    const { clock, list, seconds } = match.groups;
    if (list) {
      for (const number of list.matchAll(new RegExp(NUMBER, "g"))) {
        const from = match.index + number.index;
        if (isInside(Number(number[0]))) push(from + number[0].length, from, Number(number[0]));
      }
      continue;
    }
    const time = parseTime(clock ?? seconds);
    if (isInside(time)) push(match.index + match[0].length, match.index, time);
  }
  if (last < text.length) pieces.push({ text: text.slice(last), time: null });
  return pieces;
}

/** The age of a Unix time in seconds, as a short text. */
export function formatAgo(unixSeconds) {
  const seconds = Date.now() / 1000 - unixSeconds;
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(unixSeconds * 1000).toLocaleDateString();
}

export function formatBytes(bytes) {
  if (bytes < 1e6) return `${Math.max(1, Math.round(bytes / 1e3))} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}
