// How values are written.

import type { Party } from "./types";

const NUMBERS = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** What is not printable is shown, not obeyed: control characters, and those that turn text around. */
export function shown(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (c) => `\\u{${c.codePointAt(0)!.toString(16)}}`);
}

export function cut(text: string, length: number): string {
  const clean = shown(text);
  return clean.length > length ? `${clean.slice(0, length - 1)}…` : clean;
}

export function number(value: number): string {
  return NUMBERS.format(value);
}

export function bytes(value: number | null): string {
  if (value === null) return "–";
  const units = ["B", "KB", "MB", "GB", "TB"];
  let [left, unit] = [value, 0];
  while (left >= 1000 && unit < units.length - 1) [left, unit] = [left / 1000, unit + 1];
  return `${NUMBERS.format(left)} ${units[unit]}`;
}

export function clock(time: string): string {
  const at = new Date(time);
  return Number.isNaN(at.getTime()) ? shown(time) : at.toLocaleTimeString("en-GB");
}

export function party(one: Party): string {
  return shown(one.pod ?? one.address);
}
