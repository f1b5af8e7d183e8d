// Dark or light: as the system says, until someone chooses.

import { effect, signal } from "@preact/signals";

const KEY = "podwire-theme";
const system = matchMedia("(prefers-color-scheme: dark)");

export const theme = signal<"dark" | "light">(chosen() ?? (system.matches ? "dark" : "light"));

function chosen(): "dark" | "light" | null {
  const kept = localStorage.getItem(KEY);
  return kept === "dark" || kept === "light" ? kept : null;
}

export function follow(): void {
  effect(() => {
    document.documentElement.dataset["theme"] = theme.value;
  });
  system.addEventListener("change", () => {
    theme.value = chosen() ?? (system.matches ? "dark" : "light");
  });
}

export function turn(): void {
  theme.value = theme.value === "dark" ? "light" : "dark";
  localStorage.setItem(KEY, theme.value);
}
