"""What each value does. A value without a case here fails the last test."""

import fnmatch
import shutil
from hashlib import sha256

import pytest
import readme
import yaml
from chart import CHART, NAME, at, nested, render, run

DEPLOYMENT, REDIS = f"Deployment/{NAME}", f"StatefulSet/{NAME}-redis"
POD = f"{DEPLOYMENT} spec template"
SERVICE = f"{POD} spec containers service"
REDIS_POD = f"{REDIS} spec template"
SERVER = f"{REDIS_POD} spec containers redis"
ENV = f"{SERVICE} env"
TEST = f"Pod/{NAME}-test spec containers test"
SCRAPED = f"ServiceMonitor/{NAME} spec endpoints 0"
RULE, BOARD = f"PrometheusRule/{NAME}", f"ConfigMap/{NAME}-dashboard"
POLICY, REDIS_POLICY = f"NetworkPolicy/{NAME}", f"NetworkPolicy/{NAME}-redis"

POSTGRES = {"database.existingSecret": "db"}
EXTERNAL = {"redis.enabled": False, "externalRedis.host": "redis.example.com"}
SENTINEL = {"redis.enabled": False, "externalRedis.mode": "sentinel", "externalRedis.nodes": ["a:26379", "b:26380"]}
PERSISTENT = {"redis.persistence.enabled": True}
TLS = {"redis.tls.enabled": True, "redis.tls.existingSecret": "redis-tls"}
EXPORTER = {"redis.metrics.enabled": True}
OTEL = {"otel.enabled": True, "otel.endpoint": "http://collector:4317"}
SCRAPE = {"metrics.serviceMonitor.enabled": True}
PODS = {"metrics.podMonitor.enabled": True}
SCALED = {**POSTGRES, "autoscaling.enabled": True}
INGRESS = {"ingress.enabled": True}
ROUTE = {"httpRoute.enabled": True, "httpRoute.parentRefs": [{"name": "public"}]}
DIGEST = "sha256:" + "0" * 64
PEERS = [{"podSelector": {"matchLabels": {"a": "b"}}}]
ADMIN = {"admin.enabled": True}
OPEN_ADMIN = {"admin.enabled": True, "admin.listen": "0.0.0.0:9191"}
LABEL = {"a": "b"}
RULES = '[[rule]]\npath = "/api/products/{id}"\nttl = "30s"\n'

# What is set besides, the value, what to, where to look, and what is there: None for nothing.
CASES = [
    ({}, "global.imageRegistry", "r.example.com", f"{SERVICE} image", "r.example.com/cache-layer/service:0.1.0"),
    ({}, "global.imageRegistry", "r.example.com", f"{SERVER} image", "r.example.com/library/redis:7-alpine"),
    ({}, "nameOverride", "catalogue", "Deployment/shop-catalogue metadata name", "shop-catalogue"),
    ({}, "fullnameOverride", "catalogue", "StatefulSet/catalogue-redis metadata name", "catalogue-redis"),
    ({}, "fullnameOverride", "x" * 60, f"Service/{'x' * 47}-redis-headless spec clusterIP", "None"),
    (POSTGRES, "replicaCount", 3, f"{DEPLOYMENT} spec replicas", 3),
    (POSTGRES, "replicaCount", 3, f"PodDisruptionBudget/{NAME} spec maxUnavailable", 1),
    (POSTGRES, "replicaCount", 1, f"PodDisruptionBudget/{NAME}", None),
    ({}, "image.registry", "r.example.com", f"{SERVICE} image", "r.example.com/cache-layer/service:0.1.0"),
    ({}, "image.repository", "a/b", f"{SERVICE} image", "ghcr.io/a/b:0.1.0"),
    ({}, "image.tag", "1.2.3", f"{SERVICE} image", "ghcr.io/cache-layer/service:1.2.3"),
    ({"image.tag": "1.2.3"}, "image.digest", DIGEST, f"{SERVICE} image", f"ghcr.io/cache-layer/service@{DIGEST}"),
    ({}, "image.pullPolicy", "Always", f"{SERVICE} imagePullPolicy", "Always"),
    ({}, "imagePullSecrets", [{"name": "r"}], f"{POD} spec imagePullSecrets", [{"name": "r"}]),
    ({}, "imagePullSecrets", [{"name": "r"}], f"{REDIS_POD} spec imagePullSecrets", [{"name": "r"}]),
    ({}, "imagePullSecrets", [{"name": "r"}], f"Pod/{NAME}-test spec imagePullSecrets", [{"name": "r"}]),
    ({}, "serviceAccount.create", False, f"ServiceAccount/{NAME}", None),
    ({}, "serviceAccount.create", False, f"{POD} spec serviceAccountName", "default"),
    ({}, "serviceAccount.name", "robot", "ServiceAccount/robot automountServiceAccountToken", False),
    ({"serviceAccount.create": False}, "serviceAccount.name", "robot", f"{POD} spec serviceAccountName", "robot"),
    ({}, "serviceAccount.annotations", LABEL, f"ServiceAccount/{NAME} metadata annotations", LABEL),
    ({}, "cache.enabled", True, f"{ENV} APP_CACHE value", "on"),
    ({}, "cache.enabled", False, f"{ENV} APP_CACHE value", "off"),
    ({}, "cache.enabled", False, f"{TEST} env CACHED value", "false"),
    ({}, "cache.enabled", False, f"{TEST} env SHARED value", "false"),
    ({}, "cache.paths", "/a=1s,/b", f"{ENV} APP_CACHE_PATHS value", "/a=1s,/b"),
    ({}, "cache.rules", "", f"{ENV} APP_CACHE_RULES", None),
    ({}, "cache.rules", RULES, f"{ENV} APP_CACHE_RULES value", "/etc/cache-layer/rules.toml"),
    ({}, "cache.rules", RULES, f"ConfigMap/{NAME}-rules data rules.toml", RULES),
    ({}, "cache.rules", RULES, f"{POD} metadata annotations checksum/cache-rules", sha256(RULES.encode()).hexdigest()),
    ({}, "cache.defaultTtl", "1m", f"{ENV} APP_CACHE_DEFAULT_TTL value", "1m"),
    ({}, "cache.maxBody", "2Mi", f"{ENV} APP_CACHE_MAX_BODY value", "2MiB"),
    ({}, "cache.maxBody", "2MiB", f"{ENV} APP_CACHE_MAX_BODY value", "2MiB"),
    ({}, "cache.maxBody", "512k", f"{ENV} APP_CACHE_MAX_BODY value", "512kB"),
    ({}, "cache.maxBody", 10485760, f"{ENV} APP_CACHE_MAX_BODY value", "10485760"),
    ({}, "cache.verify", 0.01, f"{ENV} APP_CACHE_VERIFY value", "0.01"),
    ({}, "cache.credentials", "", f"{ENV} APP_CACHE_CREDENTIALS value", ""),
    ({}, "cache.credentials", "x-api-key, x-session", f"{ENV} APP_CACHE_CREDENTIALS value", "x-api-key, x-session"),
    ({}, "cache.encode", "br,gzip", f"{ENV} APP_CACHE_ENCODE value", "br,gzip"),
    ({}, "cache.encode", "zstd,br:9", f"{ENV} APP_CACHE_ENCODE value", "zstd,br:9"),
    ({}, "cache.encode", "off", f"{ENV} APP_CACHE_ENCODE value", "off"),
    ({}, "cache.memory", "128Mi", f"{ENV} APP_CACHE_MEMORY value", "128MiB"),
    ({"resources.limits.memory": "4Gi"}, "cache.memory", "2GiB", f"{ENV} APP_CACHE_MEMORY value", "2GiB"),
    # Held against the limit only where it is used.
    ({}, "cache.memory", "1Gi", f"{ENV} APP_CACHE_MEMORY value", "1GiB"),
    ({}, "cache.firstTier", 0, f"{ENV} APP_CACHE_FIRST_TIER value", "0"),
    ({}, "cache.firstTier", "128Mi", f"{ENV} APP_CACHE_FIRST_TIER value", "128MiB"),
    ({"redis.enabled": False}, "cache.firstTier", 0, f"{ENV} APP_CACHE_FIRST_TIER", None),
    ({}, "cache.hotKeys", 0, f"{ENV} APP_CACHE_HOT_KEYS value", "0"),
    ({}, "cache.hotKeys", 10000, f"{ENV} APP_CACHE_HOT_KEYS value", "10000"),
    ({"redis.enabled": False}, "cache.hotKeys", 1, f"{ENV} APP_CACHE_HOT_KEYS", None),
    ({}, "cache.warm", "0s", f"{ENV} APP_CACHE_WARM value", "0s"),
    ({}, "cache.warm", "500ms", f"{ENV} APP_CACHE_WARM value", "500ms"),
    ({"redis.enabled": False}, "cache.warm", "2s", f"{ENV} APP_CACHE_WARM", None),
    ({}, "cache.reclaim", "0s", f"{ENV} APP_CACHE_RECLAIM value", "0s"),
    ({}, "cache.reclaim", "1h", f"{ENV} APP_CACHE_RECLAIM value", "1h"),
    ({"redis.enabled": False}, "cache.reclaim", "10m", f"{ENV} APP_CACHE_RECLAIM", None),
    ({}, "cache.lockTimeout", "1s", f"{ENV} APP_CACHE_LOCK_TIMEOUT value", "1s"),
    (POSTGRES, "cache.prefix", "", f"{ENV} APP_CACHE_PREFIX value", f"ns.{NAME}"),
    ({}, "cache.prefix", "", f"{ENV} APP_CACHE_PREFIX value", f"ns.{NAME}.sqlite"),
    ({}, "cache.prefix", "", f"{SERVER} env CACHE_PREFIX value", f"ns.{NAME}*"),
    ({}, "cache.prefix", "shop", f"{ENV} APP_CACHE_PREFIX value", "shop"),
    (POSTGRES, "cache.prefix", "shop", f"{ENV} APP_CACHE_PREFIX value", "shop"),
    ({}, "cache.prefix", "shop", f"{SERVER} env CACHE_PREFIX value", "shop"),
    ({}, "cache.redisConnections", 2, f"{ENV} APP_REDIS_CONNECTIONS value", "2"),
    ({}, "cache.redisTimeout", "20ms", f"{ENV} APP_REDIS_TIMEOUT value", "20ms"),
    ({}, "requestTimeout", "3s", f"{ENV} APP_REQUEST_TIMEOUT value", "3s"),
    ({}, "log.level", "debug", f"{ENV} APP_LOG value", "debug"),
    ({}, "log.format", "text", f"{ENV} APP_LOG_FORMAT value", "text"),
    ({}, "database.existingSecret", "", f"{ENV} APP_DATABASE_URL value", "sqlite:///data/products.db"),
    # It would be a second answer to the question that the file answers.
    ({}, "database.existingSecret", "db", f"{ENV} APP_DATABASE_URL", None),
    ({}, "database.existingSecret", "db", f"{ENV} APP_DATABASE_URL_FILE value", "/run/secrets/service/database-url"),
    ({}, "database.existingSecret", "db", f"{POD} spec volumes secrets projected sources 1 secret name", "db"),
    ({}, "database.existingSecret", "db", f"PersistentVolumeClaim/{NAME}", None),
    ({}, "database.existingSecret", "db", f"{POD} spec affinity", None),
    (POSTGRES, "database.existingSecretUrlKey", "url", f"{POD} spec volumes secrets projected sources 1 secret items",
     [{"key": "url", "path": "database-url"}]),
    (POSTGRES, "database.port", 5433, f"{POLICY} spec egress 2 ports", [{"port": 5433, "protocol": "TCP"}]),
    ({}, "database.connections", 5, f"{ENV} APP_DATABASE_CONNECTIONS value", "5"),
    ({}, "persistence.enabled", True, f"{POD} spec volumes data persistentVolumeClaim claimName", NAME),
    ({}, "persistence.enabled", True, f"{POD} spec affinity podAffinity preferredDuringSchedulingIgnoredDuringExecution 0"
     " podAffinityTerm topologyKey", "kubernetes.io/hostname"),
    # A pod that has to be where the old one is can't leave a node that is drained.
    ({}, "persistence.enabled", True, f"{POD} spec affinity podAffinity requiredDuringSchedulingIgnoredDuringExecution", None),
    ({}, "persistence.enabled", False, f"{POD} spec volumes data emptyDir", {"sizeLimit": "1Gi"}),
    ({}, "persistence.enabled", False, f"PersistentVolumeClaim/{NAME}", None),
    ({}, "persistence.existingClaim", "mine", f"{POD} spec volumes data persistentVolumeClaim claimName", "mine"),
    ({}, "persistence.existingClaim", "mine", f"PersistentVolumeClaim/{NAME}", None),
    ({}, "persistence.storageClass", "fast", f"PersistentVolumeClaim/{NAME} spec storageClassName", "fast"),
    ({}, "persistence.accessModes", ["ReadWriteMany"], f"PersistentVolumeClaim/{NAME} spec accessModes", ["ReadWriteMany"]),
    ({}, "persistence.accessModes", ["ReadWriteOncePod"], f"{DEPLOYMENT} spec strategy", {"type": "Recreate"}),
    ({}, "persistence.size", "2GiB", f"PersistentVolumeClaim/{NAME} spec resources requests storage", "2Gi"),
    ({"persistence.enabled": False}, "persistence.size", "2GiB", f"{POD} spec volumes data emptyDir sizeLimit", "2Gi"),
    ({}, "persistence.size", "2Gi", f"PersistentVolumeClaim/{NAME} spec resources requests storage", "2Gi"),
    ({}, "persistence.annotations", LABEL, f"PersistentVolumeClaim/{NAME} metadata annotations a", "b"),
    ({}, "redis.enabled", True, f"{ENV} APP_REDIS_URL value", f"redis://service@{NAME}-redis:6379"),
    ({}, "redis.enabled", True, f"{ENV} APP_REDIS_PASSWORD_FILE value", "/run/secrets/service/redis-password"),
    ({}, "redis.enabled", False, REDIS, None),
    ({}, "redis.enabled", False, f"{ENV} APP_REDIS_URL", None),
    ({}, "redis.enabled", False, REDIS_POLICY, None),
    # What `helm test` looks at: `/health` with any Redis, and the chart's own without a password.
    ({}, "redis.enabled", True, f"{TEST} env SHARED value", "true"),
    ({}, "redis.enabled", True, f"{TEST} env REDIS value", f"{NAME}-redis"),
    ({}, "redis.enabled", False, f"{TEST} env SHARED value", "false"),
    (EXTERNAL, "redis.enabled", False, f"{TEST} env SHARED value", "true"),
    (EXTERNAL, "redis.enabled", False, f"{TEST} env REDIS", None),
    ({}, "redis.image.registry", "r.example.com", f"{SERVER} image", "r.example.com/library/redis:7-alpine"),
    ({}, "redis.image.repository", "valkey/valkey", f"{SERVER} image", "docker.io/valkey/valkey:7-alpine"),
    ({}, "redis.image.tag", "8", f"{SERVER} image", "docker.io/library/redis:8"),
    ({}, "redis.image.digest", DIGEST, f"{SERVER} image", f"docker.io/library/redis@{DIGEST}"),
    ({}, "redis.image.pullPolicy", "Always", f"{SERVER} imagePullPolicy", "Always"),
    ({}, "redis.auth.password", "hunter2", f"Secret/{NAME}-redis data password", "aHVudGVyMg=="),
    ({}, "redis.auth.password", "", f"{POD} metadata annotations", None),
    ({}, "redis.auth.existingSecret", "mine", f"Secret/{NAME}-redis", None),
    ({}, "redis.auth.existingSecret", "mine", f"{POD} spec volumes secrets projected sources 0 secret name", "mine"),
    ({}, "redis.auth.existingSecret", "mine", f"{REDIS_POD} spec volumes password secret secretName", "mine"),
    ({"redis.auth.existingSecret": "mine"}, "redis.auth.existingSecretPasswordKey", "k",
     f"{REDIS_POD} spec volumes password secret items", [{"key": "k", "path": "password"}]),
    ({}, "redis.maxmemory", "", f"ConfigMap/{NAME}-redis data memory.conf", "maxmemory 100663296\nmaxmemory-policy allkeys-lfu\n"),
    ({}, "redis.maxmemory", "64mb", f"ConfigMap/{NAME}-redis data memory.conf", "maxmemory 67108864\nmaxmemory-policy allkeys-lfu\n"),
    ({}, "redis.maxmemory", "64MiB", f"ConfigMap/{NAME}-redis data memory.conf", "maxmemory 67108864\nmaxmemory-policy allkeys-lfu\n"),
    ({}, "redis.maxmemory", 67108864, f"ConfigMap/{NAME}-redis data memory.conf", "maxmemory 67108864\nmaxmemory-policy allkeys-lfu\n"),
    ({"redis.resources.limits.memory": 134217728}, "redis.maxmemory", "", f"ConfigMap/{NAME}-redis data memory.conf",
     "maxmemory 100663296\nmaxmemory-policy allkeys-lfu\n"),
    ({}, "redis.maxmemoryPolicy", "allkeys-lru", f"ConfigMap/{NAME}-redis data memory.conf",
     "maxmemory 100663296\nmaxmemory-policy allkeys-lru\n"),
    ({}, "redis.persistence.enabled", True, f"{SERVER} env REDIS_PERSISTENCE value", "true"),
    ({}, "redis.persistence.enabled", True, f"ConfigMap/{NAME}-redis data memory.conf", "maxmemory 67108864\nmaxmemory-policy allkeys-lfu\n"),
    ({}, "redis.persistence.enabled", False, f"{REDIS_POD} spec volumes data emptyDir", {"sizeLimit": "64Mi"}),
    (PERSISTENT, "redis.persistence.storageClass", "fast", f"{REDIS} spec volumeClaimTemplates 0 spec storageClassName", "fast"),
    (PERSISTENT, "redis.persistence.accessModes", ["ReadWriteOncePod"], f"{REDIS} spec volumeClaimTemplates 0 spec accessModes",
     ["ReadWriteOncePod"]),
    (PERSISTENT, "redis.persistence.size", "9Gi", f"{REDIS} spec volumeClaimTemplates 0 spec resources requests storage", "9Gi"),
    (PERSISTENT, "redis.persistence.whenDeleted", "Retain", f"{REDIS} spec persistentVolumeClaimRetentionPolicy whenDeleted", "Retain"),
    ({"redis.tls.existingSecret": "t"}, "redis.tls.enabled", True, f"{ENV} APP_REDIS_URL value", f"rediss://service@{NAME}-redis:6379"),
    ({"redis.tls.existingSecret": "t"}, "redis.tls.enabled", True, f"{SERVER} env REDIS_TLS value", "true"),
    (TLS, "redis.tls.existingSecret", "other", f"{REDIS_POD} spec volumes tls secret secretName", "other"),
    (TLS, "redis.tls.existingSecret", "other", f"{POD} spec volumes secrets projected sources 1 secret",
     {"name": "other", "items": [{"key": "ca.crt", "path": "redis-ca.crt"}]}),
    (TLS, "redis.tls.existingSecret", "other", f"{ENV} SSL_CERT_FILE value", "/run/secrets/service/redis-ca.crt"),
    (TLS, "redis.tls.existingSecret", "other", f"{ENV} SSL_CERT_DIR value", "/etc/ssl/certs"),
    ({}, "redis.tls.enabled", False, f"{ENV} SSL_CERT_DIR", None),
    ({}, "redis.metrics.enabled", True, f"{REDIS_POD} spec containers metrics ports 0 containerPort", 9121),
    ({}, "redis.metrics.enabled", True, f"{SERVER} env REDIS_EXPORTER value", "true"),
    ({}, "redis.metrics.enabled", True, f"{REDIS_POLICY} spec ingress 1 ports 0 port", 9121),
    ({}, "redis.metrics.enabled", True, f"Service/{NAME}-redis spec ports metrics port", 9121),
    ({}, "redis.metrics.enabled", True, f"{REDIS_POD} spec containers metrics volumeMounts exporter mountPath", "/run/exporter"),
    (EXPORTER, "redis.metrics.image.registry", "r.example.com", f"{REDIS_POD} spec containers metrics image",
     "r.example.com/oliver006/redis_exporter:v1.87.0-alpine"),
    (EXPORTER, "redis.metrics.image.repository", "a/b", f"{REDIS_POD} spec containers metrics image", "docker.io/a/b:v1.87.0-alpine"),
    (EXPORTER, "redis.metrics.image.tag", "v2", f"{REDIS_POD} spec containers metrics image", "docker.io/oliver006/redis_exporter:v2"),
    (EXPORTER, "redis.metrics.image.digest", DIGEST, f"{REDIS_POD} spec containers metrics image",
     f"docker.io/oliver006/redis_exporter@{DIGEST}"),
    (EXPORTER, "redis.metrics.image.pullPolicy", "Never", f"{REDIS_POD} spec containers metrics imagePullPolicy", "Never"),
    (EXPORTER, "redis.metrics.resources.limits.memory", "99Mi", f"{REDIS_POD} spec containers metrics resources limits memory", "99Mi"),
    ({}, "redis.resources.limits.memory", "1Gi", f"ConfigMap/{NAME}-redis data memory.conf",
     "maxmemory 805306368\nmaxmemory-policy allkeys-lfu\n"),
    ({}, "redis.podAnnotations", LABEL, f"{REDIS_POD} metadata annotations a", "b"),
    ({}, "redis.podLabels", LABEL, f"{REDIS_POD} metadata labels a", "b"),
    ({}, "redis.podSecurityContext.runAsUser", 1001, f"{REDIS_POD} spec securityContext runAsUser", 1001),
    ({}, "redis.securityContext.runAsUser", 1001, f"{SERVER} securityContext runAsUser", 1001),
    ({}, "redis.startupProbe.failureThreshold", 9, f"{SERVER} startupProbe failureThreshold", 9),
    ({}, "redis.readinessProbe.periodSeconds", 9, f"{SERVER} readinessProbe periodSeconds", 9),
    ({}, "redis.livenessProbe.timeoutSeconds", 9, f"{SERVER} livenessProbe exec command", ["sh", "/etc/redis/redis-live.sh"]),
    ({}, "redis.livenessProbe.timeoutSeconds", 9, f"{SERVER} livenessProbe timeoutSeconds", 9),
    ({}, "redis.terminationGracePeriodSeconds", 9, f"{REDIS_POD} spec terminationGracePeriodSeconds", 9),
    ({}, "redis.nodeSelector", LABEL, f"{REDIS_POD} spec nodeSelector", LABEL),
    ({}, "redis.tolerations", [{"key": "a"}], f"{REDIS_POD} spec tolerations", [{"key": "a"}]),
    ({}, "redis.affinity", {"podAffinity": {}}, f"{REDIS_POD} spec affinity", {"podAffinity": {}}),
    ({}, "redis.priorityClassName", "high", f"{REDIS_POD} spec priorityClassName", "high"),
    (SENTINEL, "externalRedis.mode", "sentinel", f"{ENV} APP_REDIS_URL value", "redis+sentinel://a:26379,b:26380/mymaster"),
    (SENTINEL, "externalRedis.mode", "cluster", f"{ENV} APP_REDIS_URL value", "redis+cluster://a:26379,b:26380"),
    (EXTERNAL, "externalRedis.host", "other", f"{ENV} APP_REDIS_URL value", "redis://other:6379/0"),
    (EXTERNAL, "externalRedis.host", "other", f"{ENV} APP_REDIS_PASSWORD_FILE", None),
    (EXTERNAL, "externalRedis.host", "other", REDIS, None),
    (EXTERNAL, "externalRedis.port", 6380, f"{ENV} APP_REDIS_URL value", "redis://redis.example.com:6380/0"),
    (EXTERNAL, "externalRedis.port", 6380, f"{POLICY} spec egress 1 ports", [{"port": 6380, "protocol": "TCP"}]),
    (SENTINEL, "externalRedis.nodes", ["c:26379"], f"{POLICY} spec egress 1 ports",
     [{"port": 6379, "protocol": "TCP"}, {"port": 26379, "protocol": "TCP"}]),
    (SENTINEL, "externalRedis.masterName", "shop", f"{ENV} APP_REDIS_URL value", "redis+sentinel://a:26379,b:26380/shop"),
    (SENTINEL, "externalRedis.database", 2, f"{ENV} APP_REDIS_URL value", "redis+sentinel://a:26379,b:26380/mymaster/2"),
    (EXTERNAL, "externalRedis.username", "me", f"{ENV} APP_REDIS_URL value", "redis://me@redis.example.com:6379/0"),
    ({"redis.enabled": False}, "externalRedis.url", "rediss://me@a:7000/1", f"{ENV} APP_REDIS_URL value", "rediss://me@a:7000/1"),
    ({"redis.enabled": False}, "externalRedis.url", "rediss://me@a:7000/1", f"{POLICY} spec egress 1 ports 1 port", 7000),
    *(({"redis.enabled": False}, "externalRedis.url", url, f"{POLICY} spec egress 1 ports", [{"port": port, "protocol": "TCP"} for port in ports])
      for url, ports in {
          "redis+cluster://a:7000,b:7001,c:7002": [6379, 7000, 7001, 7002],
          "rediss+cluster://me@a:7000,b": [6379, 7000],
          "redis+sentinel://s0,s1/catalogue": [6379, 26379],
          "redis+sentinel://me@s0:26379,s1:26380/x/1": [6379, 26379, 26380],
          "valkey+sentinel://s0:1,s1/x:2": [6379, 1, 26379],
          "redis://[fd00::1]:7000": [6379, 7000],
          "redis://[fd00::1]/1": [6379],
      }.items()),
    ({"redis.enabled": False, "externalRedis.mode": "sentinel", "externalRedis.nodes": ["b:7001"]}, "externalRedis.url",
     "redis+sentinel://s0/x", f"{POLICY} spec egress 1 ports",
     [{"port": port, "protocol": "TCP"} for port in (6379, 7001, 26379)]),
    (EXTERNAL, "externalRedis.existingSecret", "mine", f"{POD} spec volumes secrets projected sources 0 secret",
     {"name": "mine", "items": [{"key": "password", "path": "redis-password"}]}),
    ({**EXTERNAL, "externalRedis.existingSecret": "mine"}, "externalRedis.existingSecretPasswordKey", "k",
     f"{POD} spec volumes secrets projected sources 0 secret items 0 key", "k"),
    ({"redis.enabled": False, "externalRedis.existingSecret": "mine"}, "externalRedis.existingSecretUrlKey", "url",
     f"{ENV} APP_REDIS_URL_FILE value", "/run/secrets/service/redis-url"),
    ({"redis.enabled": False, "externalRedis.existingSecret": "mine"}, "externalRedis.existingSecretUrlKey", "url",
     f"{POD} spec volumes secrets projected sources 0 secret items", [{"key": "url", "path": "redis-url"}]),
    (EXTERNAL, "externalRedis.tls.enabled", True, f"{ENV} APP_REDIS_URL value", "rediss://redis.example.com:6379/0"),
    (SENTINEL, "externalRedis.tls.enabled", True, f"{ENV} APP_REDIS_URL value", "rediss+sentinel://a:26379,b:26380/mymaster"),
    ({**EXTERNAL, "externalRedis.tls.enabled": True}, "externalRedis.tls.existingSecret", "ca", f"{POD} spec volumes secrets projected sources 0 secret name", "ca"),
    ({"redis.enabled": False, "externalRedis.url": "rediss://a"}, "externalRedis.tls.existingSecret", "ca",
     f"{ENV} SSL_CERT_FILE value", "/run/secrets/service/redis-ca.crt"),
    ({"redis.enabled": False, "externalRedis.url": "valkeys://a", "externalRedis.tls.enabled": True}, "externalRedis.tls.existingSecret", "ca",
     f"{ENV} SSL_CERT_FILE value", "/run/secrets/service/redis-ca.crt"),
    ({"redis.enabled": False, "externalRedis.url": "rediss://a"}, "externalRedis.tls.existingSecret", "ca",
     f"{ENV} SSL_CERT_DIR value", "/etc/ssl/certs"),
    ({**EXTERNAL, "externalRedis.tls.enabled": True, "externalRedis.tls.existingSecret": "ca"}, "externalRedis.tls.caKey", "k",
     f"{POD} spec volumes secrets projected sources 0 secret items", [{"key": "k", "path": "redis-ca.crt"}]),
    ({}, "service.type", "LoadBalancer", f"Service/{NAME} spec type", "LoadBalancer"),
    ({}, "service.port", 8080, f"Service/{NAME} spec ports http port", 8080),
    ({}, "service.port", 8080, f"Pod/{NAME}-test spec containers test env PORT value", "8080"),
    ({}, "service.annotations", LABEL, f"Service/{NAME} metadata annotations", LABEL),
    ({}, "service.trafficDistribution", "PreferClose", f"Service/{NAME} spec trafficDistribution", "PreferClose"),
    ({}, "listen", "[::]:9000", f"{ENV} APP_LISTEN value", "[::]:9000"),
    ({}, "listen", "[::]:9000", f"{SERVICE} ports http containerPort", 9000),
    ({}, "ingress.enabled", True, f"Ingress/{NAME} spec rules 0 http paths 0 backend service", {"name": NAME, "port": {"name": "http"}}),
    (INGRESS, "ingress.className", "nginx", f"Ingress/{NAME} spec ingressClassName", "nginx"),
    (INGRESS, "ingress.annotations", LABEL, f"Ingress/{NAME} metadata annotations", LABEL),
    (INGRESS, "ingress.hosts", [{"host": "a", "paths": [{"path": "/x", "pathType": "Exact"}]}],
     f"Ingress/{NAME} spec rules 0 http paths 0 path", "/x"),
    (INGRESS, "ingress.tls", [{"secretName": "t"}], f"Ingress/{NAME} spec tls", [{"secretName": "t"}]),
    ({}, "httpRoute.enabled", True, f"HTTPRoute/{NAME} spec rules 0 backendRefs", [{"name": NAME, "port": 80}]),
    (ROUTE, "httpRoute.annotations", LABEL, f"HTTPRoute/{NAME} metadata annotations", LABEL),
    (ROUTE, "httpRoute.parentRefs", [{"name": "other"}], f"HTTPRoute/{NAME} spec parentRefs", [{"name": "other"}]),
    (ROUTE, "httpRoute.hostnames", ["a"], f"HTTPRoute/{NAME} spec hostnames", ["a"]),
    (ROUTE, "httpRoute.matches", [{"method": "GET"}], f"HTTPRoute/{NAME} spec rules 0 matches", [{"method": "GET"}]),
    ({}, "resources.limits.memory", "1Gi", f"{SERVICE} resources limits memory", "1Gi"),
    (POSTGRES, "autoscaling.enabled", True, f"{DEPLOYMENT} spec replicas", None),
    (POSTGRES, "autoscaling.enabled", True, f"HorizontalPodAutoscaler/{NAME} spec scaleTargetRef name", NAME),
    (SCALED, "autoscaling.minReplicas", 3, f"HorizontalPodAutoscaler/{NAME} spec minReplicas", 3),
    (SCALED, "autoscaling.minReplicas", 1, f"PodDisruptionBudget/{NAME}", None),
    (SCALED, "autoscaling.maxReplicas", 5, f"HorizontalPodAutoscaler/{NAME} spec maxReplicas", 5),
    (SCALED, "autoscaling.targetCPUUtilizationPercentage", 50,
     f"HorizontalPodAutoscaler/{NAME} spec metrics 0 resource", {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}),
    (SCALED, "autoscaling.targetMemoryUtilizationPercentage", 80,
     f"HorizontalPodAutoscaler/{NAME} spec metrics 1 resource", {"name": "memory", "target": {"type": "Utilization", "averageUtilization": 80}}),
    (SCALED, "autoscaling.behavior", {"scaleUp": {}}, f"HorizontalPodAutoscaler/{NAME} spec behavior", {"scaleUp": {}}),
    ({**POSTGRES, "replicaCount": 2}, "podDisruptionBudget.enabled", False, f"PodDisruptionBudget/{NAME}", None),
    ({**POSTGRES, "replicaCount": 2}, "podDisruptionBudget.maxUnavailable", "25%", f"PodDisruptionBudget/{NAME} spec maxUnavailable", "25%"),
    ({}, "admin.enabled", False, f"{ENV} APP_ADMIN_LISTEN", None),
    ({}, "admin.enabled", True, f"{ENV} APP_ADMIN_LISTEN value", "127.0.0.1:9090"),
    ({}, "admin.enabled", True, f"{ENV} APP_ADMIN_TOKEN_FILE", None),
    ({}, "admin.enabled", True, f"Service/{NAME}-admin", None),
    (ADMIN, "admin.listen", "0.0.0.0:9191", f"Service/{NAME}-admin spec ports 0 port", 9191),
    (ADMIN, "admin.listen", "0.0.0.0:9191", f"{SERVICE} ports admin containerPort", 9191),
    (ADMIN, "admin.listen", "0.0.0.0:9191", f"{POLICY} spec ingress 1", None),
    (ADMIN, "admin.existingSecret", "operators", f"{ENV} APP_ADMIN_TOKEN_FILE value", "/run/secrets/service/admin-token"),
    ({**ADMIN, "admin.existingSecret": "operators"}, "admin.existingSecretKey", "k",
     f"{POD} spec volumes secrets projected sources 1 secret items 0 key", "k"),
    ({}, "admin.sizing", True, f"{ENV} APP_ADMIN_SIZING", None),
    (ADMIN, "admin.sizing", True, f"{ENV} APP_ADMIN_SIZING value", "true"),
    (ADMIN, "admin.purge", "/api", f"{ENV} APP_ADMIN_PURGE", None),
    ({**ADMIN, "admin.existingSecret": "operators"}, "admin.purge", "/api", f"{ENV} APP_ADMIN_PURGE value", "/api"),
    (OPEN_ADMIN, "networkPolicy.adminFrom", PEERS, f"{POLICY} spec ingress 1 from", PEERS),
    (ADMIN, "networkPolicy.adminFrom", PEERS, f"{POLICY} spec ingress 1", None),
    ({}, "networkPolicy.enabled", False, POLICY, None),
    ({}, "networkPolicy.enabled", False, REDIS_POLICY, None),
    ({}, "networkPolicy.enabled", True, f"{REDIS_POLICY} spec ingress 0 from 0 podSelector matchLabels", {f"{NAME}-redis-client": "true"}),
    ({}, "networkPolicy.enabled", True, f"{POD} metadata labels {NAME}-redis-client", "true"),
    ({}, "networkPolicy.ingressFrom", PEERS, f"{POLICY} spec ingress 0 from 0", PEERS[0]),
    (EXPORTER, "networkPolicy.metricsFrom", PEERS, f"{REDIS_POLICY} spec ingress 1 from", PEERS),
    ({}, "networkPolicy.extraEgress", [{"ports": [{"port": 1}]}], f"{POLICY} spec egress 2", {"ports": [{"port": 1}]}),
    ({}, "updateStrategy.maxSurge", "50%", f"{DEPLOYMENT} spec strategy rollingUpdate maxSurge", "50%"),
    ({}, "updateStrategy.maxUnavailable", 1, f"{DEPLOYMENT} spec strategy rollingUpdate maxUnavailable", 1),
    ({}, "shutdown.preStopSleepSeconds", 9, f"{SERVICE} lifecycle preStop sleep seconds", 9),
    ({}, "shutdown.preStopSleepSeconds", 9, f"{POD} spec terminationGracePeriodSeconds", 42),
    ({}, "shutdown.preStopSleepSeconds", 0, f"{SERVICE} lifecycle", None),
    ({}, "shutdown.delaySeconds", 9, f"{ENV} APP_SHUTDOWN_DELAY value", "9s"),
    ({}, "shutdown.timeoutSeconds", 9, f"{ENV} APP_SHUTDOWN_TIMEOUT value", "9s"),
    ({}, "terminationGracePeriodSeconds", 0, f"{POD} spec terminationGracePeriodSeconds", 38),
    ({}, "terminationGracePeriodSeconds", 99, f"{POD} spec terminationGracePeriodSeconds", 99),
    ({}, "startupProbe.failureThreshold", 9, f"{SERVICE} startupProbe failureThreshold", 9),
    ({}, "readinessProbe.periodSeconds", 9, f"{SERVICE} readinessProbe periodSeconds", 9),
    ({}, "livenessProbe.timeoutSeconds", 9, f"{SERVICE} livenessProbe timeoutSeconds", 9),
    ({}, "podAnnotations", LABEL, f"{POD} metadata annotations", LABEL),
    ({}, "podLabels", LABEL, f"{POD} metadata labels a", "b"),
    ({}, "podSecurityContext.runAsUser", 1001, f"{POD} spec securityContext runAsUser", 1001),
    ({}, "securityContext.runAsUser", 1001, f"{SERVICE} securityContext runAsUser", 1001),
    (POSTGRES, "topologySpreadConstraints", [], f"{POD} spec topologySpreadConstraints 1 topologyKey", "topology.kubernetes.io/zone"),
    ({}, "topologySpreadConstraints", [{"topologyKey": "rack"}], f"{POD} spec topologySpreadConstraints", [{"topologyKey": "rack"}]),
    ({}, "affinity", {"podAffinity": {}}, f"{POD} spec affinity", {"podAffinity": {}}),
    ({}, "nodeSelector", LABEL, f"{POD} spec nodeSelector", LABEL),
    ({}, "tolerations", [{"key": "a"}], f"{POD} spec tolerations", [{"key": "a"}]),
    ({}, "priorityClassName", "high", f"{POD} spec priorityClassName", "high"),
    ({}, "lifecycle", {"postStart": {}}, f"{SERVICE} lifecycle", {"postStart": {}}),
    ({}, "extraEnv", [{"name": "A", "value": "b"}], f"{ENV} A value", "b"),
    ({}, "extraEnvFrom", [{"secretRef": {"name": "a"}}], f"{SERVICE} envFrom", [{"secretRef": {"name": "a"}}]),
    ({}, "extraVolumes", [{"name": "a", "emptyDir": {}}], f"{POD} spec volumes a emptyDir", {}),
    ({}, "extraVolumeMounts", [{"name": "a", "mountPath": "/a"}], f"{SERVICE} volumeMounts a mountPath", "/a"),
    ({}, "otel.enabled", False, f"{ENV} OTEL_EXPORTER_OTLP_ENDPOINT", None),
    ({"otel.endpoint": "http://c:1"}, "otel.enabled", True, f"{ENV} OTEL_SERVICE_NAME value", NAME),
    (OTEL, "otel.endpoint", "https://c.example.com", f"{ENV} OTEL_EXPORTER_OTLP_ENDPOINT value", "https://c.example.com"),
    (OTEL, "otel.endpoint", "https://c.example.com", f"{POLICY} spec egress 2 ports 0 port", 443),
    (OTEL, "otel.endpoint", "http://c:9999/x", f"{POLICY} spec egress 2 ports 0 port", 9999),
    (OTEL, "otel.endpoint", "http://[fd00::1]:9999", f"{POLICY} spec egress 2 ports 0 port", 9999),
    (OTEL, "otel.nodeAgent", True, f"{ENV} OTEL_EXPORTER_OTLP_ENDPOINT value", "http://$(K8S_NODE_IP):4317"),
    (OTEL, "otel.nodeAgent", True, f"{ENV} K8S_NODE_IP valueFrom fieldRef fieldPath", "status.hostIP"),
    (OTEL, "otel.protocol", "http/protobuf", f"{ENV} OTEL_EXPORTER_OTLP_PROTOCOL value", "http/protobuf"),
    (OTEL, "otel.serviceName", "catalogue", f"{ENV} OTEL_SERVICE_NAME value", "catalogue"),
    (OTEL, "otel.sampler", "always_on", f"{ENV} OTEL_TRACES_SAMPLER value", "always_on"),
    (OTEL, "otel.samplerArg", "0.5", f"{ENV} OTEL_TRACES_SAMPLER_ARG value", "0.5"),
    (OTEL, "otel.traceKeys", True, f"{ENV} APP_TRACE_KEYS value", "true"),
    (OTEL, "otel.traceKeys", False, f"{ENV} APP_TRACE_KEYS value", "false"),
    (OTEL, "otel.resourceAttributes", {"deployment.environment.name": "test"}, f"{ENV} OTEL_RESOURCE_ATTRIBUTES value",
     "k8s.pod.name=$(K8S_POD_NAME),k8s.pod.uid=$(K8S_POD_UID),k8s.namespace.name=$(K8S_NAMESPACE_NAME),"
     "k8s.node.name=$(K8S_NODE_NAME),service.instance.id=$(K8S_POD_UID),service.version=0.1.0,deployment.environment.name=test"),
    (OTEL, "otel.headersSecret.name", "h", f"{ENV} OTEL_EXPORTER_OTLP_HEADERS valueFrom secretKeyRef", {"name": "h", "key": "headers"}),
    ({**OTEL, "otel.headersSecret.name": "h"}, "otel.headersSecret.key", "k",
     f"{ENV} OTEL_EXPORTER_OTLP_HEADERS valueFrom secretKeyRef key", "k"),
    ({}, "metrics.serviceMonitor.enabled", True, f"{SCRAPED} port", "http"),
    (EXPORTER, "metrics.serviceMonitor.enabled", True, f"ServiceMonitor/{NAME}-redis spec endpoints 0 port", "metrics"),
    (SCRAPE, "metrics.serviceMonitor.labels", LABEL, f"ServiceMonitor/{NAME} metadata labels a", "b"),
    (SCRAPE, "metrics.serviceMonitor.interval", "9s", f"{SCRAPED} interval", "9s"),
    (SCRAPE, "metrics.serviceMonitor.scrapeTimeout", "9s", f"{SCRAPED} scrapeTimeout", "9s"),
    ({}, "metrics.podMonitor.enabled", True, f"PodMonitor/{NAME} spec podMetricsEndpoints 0 path", "/metrics"),
    (PODS, "metrics.podMonitor.labels", LABEL, f"PodMonitor/{NAME} metadata labels a", "b"),
    (PODS, "metrics.podMonitor.interval", "9s", f"PodMonitor/{NAME} spec podMetricsEndpoints 0 interval", "9s"),
    (PODS, "metrics.podMonitor.scrapeTimeout", "9s", f"PodMonitor/{NAME} spec podMetricsEndpoints 0 scrapeTimeout", "9s"),
    ({}, "metrics.prometheusRule.enabled", False, RULE, None),
    ({}, "metrics.prometheusRule.enabled", True, f"{RULE} spec groups 0 name", "cache-layer"),
    ({"metrics.prometheusRule.enabled": True}, "metrics.prometheusRule.labels", LABEL, f"{RULE} metadata labels a", "b"),
    ({}, "metrics.dashboard.enabled", False, BOARD, None),
    ({}, "metrics.dashboard.enabled", True, f"{BOARD} metadata labels grafana_dashboard", "1"),
    ({"metrics.dashboard.enabled": True}, "metrics.dashboard.labels", LABEL, f"{BOARD} metadata labels a", "b"),
    ({}, "tests.image.registry", "r.example.com", f"Pod/{NAME}-test spec containers test image", "r.example.com/library/busybox:1.36"),
    ({}, "tests.image.repository", "a/b", f"Pod/{NAME}-test spec containers test image", "docker.io/a/b:1.36"),
    ({}, "tests.image.tag", "9", f"Pod/{NAME}-test spec containers test image", "docker.io/library/busybox:9"),
    ({}, "tests.image.digest", DIGEST, f"Pod/{NAME}-test spec containers test image", f"docker.io/library/busybox@{DIGEST}"),
    ({}, "tests.image.pullPolicy", "Never", f"Pod/{NAME}-test spec containers test imagePullPolicy", "Never"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("besides", "value", "to", "path", "expected"), CASES, ids=[f"{case[1]}={case[2]}: {case[3]}" for case in CASES]
)
def test_it_does(besides, value, to, path, expected):
    assert at(render(values=nested({**besides, value: to})), path) == expected


def test_every_value_has_a_case():
    described = {".".join(path) for path, _ in readme.documented()}
    tested = {case[1] for case in CASES}
    # A value that has parts is tested by them.
    missing = [value for value in described if not any(f"{case}.".startswith(f"{value}.") for case in tested)]
    assert missing == []


def test_what_is_never_asked_for_is_not_there():
    kinds = {name.split("/")[0] for name in render()}
    optional = {"Ingress", "HTTPRoute", "HorizontalPodAutoscaler", "ServiceMonitor", "PodMonitor", "PrometheusRule"}
    assert kinds & optional == set()


def test_what_the_cluster_does_not_know_is_left_out():
    everything = render(mode=CHART / "ci/everything-values.yaml", apis=())
    assert not any(thing["apiVersion"].startswith("monitoring.coreos.com") for thing in everything.values())


def test_a_change_of_the_password_or_the_configuration_rolls_the_pods_that_read_it():
    def annotations(values):
        objects = render(values=nested(values))
        return [at(objects, f"{workload} metadata annotations") for workload in (POD, REDIS_POD)]

    one, other = ({"redis.auth.password": password} for password in ("one", "other"))
    assert all(before != after for before, after in zip(annotations(one), annotations(other)))
    smaller = annotations({**one, "redis.maxmemory": "32Mi"})
    assert smaller[0] == annotations(one)[0] and smaller[1] != annotations(one)[1]


def test_a_new_version_of_the_chart_does_not_empty_the_cache(tmp_path):
    newer = shutil.copytree(CHART, tmp_path / "newer")
    description = (newer / "Chart.yaml").read_text()
    (newer / "Chart.yaml").write_text(description.replace("\nversion: 0.1.0", "\nversion: 0.1.1"))
    objects = yaml.safe_load_all(run("helm", "template", "shop", newer, "--namespace", "ns"))
    after = next(o for o in objects if o and o["kind"] == "StatefulSet")
    before = render()[REDIS]
    assert after["metadata"]["labels"] != before["metadata"]["labels"]
    assert after["spec"]["template"]["metadata"] == before["spec"]["template"]["metadata"]


def test_another_database_does_not_find_what_is_cached_of_the_one_before_and_does_not_restart_redis():
    before, after = render(), render(values=nested(POSTGRES))
    prefix = f"{ENV} APP_CACHE_PREFIX value"
    assert at(before, prefix) != at(after, prefix)
    assert before[REDIS]["spec"]["template"] == after[REDIS]["spec"]["template"]
    # Its user may touch the keys of either.
    pattern = at(after, f"{SERVER} env CACHE_PREFIX value")
    assert all(fnmatch.fnmatchcase(f"{at(objects, prefix)}:e:x", f"{pattern}:*") for objects in (before, after))


@pytest.mark.parametrize("database", ["", "db"])
def test_a_prefix_of_long_names_is_one_that_the_service_takes_and_no_other_release_has(database):
    prefixes = {
        at(render(values=nested({"fullnameOverride": "x" * 46 + last, "database.existingSecret": database}), namespace="n" * 63),
           f"Deployment/{'x' * 46}{last} spec template spec containers service env APP_CACHE_PREFIX value")
        for last in "ab"
    }  # fmt: skip
    assert len(prefixes) == 2 and all(len(prefix) <= 64 for prefix in prefixes)


def test_the_pod_of_helm_test_is_there_to_be_read_after_a_success():
    policy = at(render(), f"Pod/{NAME}-test metadata annotations helm.sh/hook-delete-policy")
    assert policy == "before-hook-creation"
