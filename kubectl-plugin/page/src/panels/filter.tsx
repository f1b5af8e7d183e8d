// What a list is narrowed down to; all lists share it.

import { signal } from "@preact/signals";

/** No list shows more at once. */
export const SHOWN = 120;

const filter = signal("");

export function Filter({ label }: { label: string }) {
  return (
    <input class="filter" type="search" aria-label={label} placeholder={label} value={filter}
      onInput={(event) => { filter.value = event.currentTarget.value; }} />
  );
}

export function fits(...texts: (string | number | null)[]): boolean {
  const wanted = filter.value.trim().toLowerCase();
  return !wanted || texts.join(" ").toLowerCase().includes(wanted);
}
