#!/bin/sh
# Sees to a headless Chromium for the tests of the server's page: one that is installed, Debian's for root, or Playwright's.
# $1: the Python whose Playwright drives it. Where none can be had, those tests are skipped, except in CI.
set -eu

for name in chromium-headless-shell chromium chromium-browser google-chrome; do
  if command -v "$name" >/dev/null; then exit 0; fi
done
if [ -n "${CHROMIUM:-}" ]; then exit 0; fi
if "$1" -c 'import os, sys
from playwright.sync_api import sync_playwright
with sync_playwright() as p: sys.exit(not os.path.exists(p.chromium.executable_path))'; then exit 0; fi

echo "Installing a headless Chromium for the tests of the page ..." >&2
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq >&2 || true
  if apt-get install -y -qq --no-install-recommends chromium-headless-shell >&2 ||
     apt-get install -y -qq --no-install-recommends chromium >&2; then exit 0; fi
fi
if "$1" -m playwright install --only-shell chromium >&2; then exit 0; fi
echo "No Chromium can be had here: THE PAGE IS NOT TESTED. Install one, or set CHROMIUM to its path." >&2
