#!/usr/bin/env bash
# Django's cache says `Age: 0` of a response that is older than its `max-age`, if `cache_page` keeps it for longer than the view says.
#
# Django 5.2.19 (the newest for Python 3.10 and 3.11; 6.1.3 does the same). Run it with Python 3.10 or newer:
# findings/django-says-age-0-of-what-is-stale.sh
#
# Two views are cached by `cache_page(60)`, and one says `max-age=2` of its own: browsers and caches in front are to ask again soon,
# while Django answers from its cache. Both are requested twice, 3 seconds apart. Expected: the second responses say `Age: 3` (RFC
# 9111, section 5.1), or a `max-age` to match. Seen: one says `Age: 3`, the other `max-age=2` and `Age: 0`, since the age is
# counted back from the expiry in Django's cache. A cache in front takes it for new, for 2 seconds more, up to a minute after
# it was made.
#
# Output: nothing said: max-age=60, Age 3; max-age=2 said: max-age=2, Age 0
#
# Exit status 0: it is as described. 1: it is not any more, or could not be tried.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check Django==5.2.19

cat >try.py <<'PYTHON'
import sys
import time

import django
from django.conf import settings
from django.http import HttpResponse
from django.test import Client
from django.urls import path
from django.views.decorators.cache import cache_page

memory = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="none", CACHES=memory)
django.setup()
calls = 0


def view(own):
    def answer(_):
        global calls
        calls += 1
        return HttpResponse("one", headers=own)

    return cache_page(60)(answer)


urlpatterns = [path("nothing", view({})), path("max-age=2", view({"Cache-Control": "max-age=2"}))]
client = Client()
names = ["nothing", "max-age=2"]
first = [client.get(f"/{name}") for name in names]
time.sleep(3.2)
second = [client.get(f"/{name}") for name in names]
if calls != 2 or any("Age" in answer for answer in first):
    sys.exit("it does not cache as it did")
said = [(answer["Cache-Control"], answer["Age"]) for answer in second]
print("; ".join(f"{name} said: {lifetime}, Age {age}" for name, (lifetime, age) in zip(names, said)))
# A second more is one of rounding.
sys.exit(0 if said[0] in (("max-age=60", "3"), ("max-age=60", "4")) and said[1] == ("max-age=2", "0") else 1)
PYTHON
venv/bin/python try.py
