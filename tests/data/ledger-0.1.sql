BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0005');
CREATE TABLE api_keys (
	id VARCHAR(32) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	scopes JSON NOT NULL, 
	clouds JSON, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME, 
	revoked_at DATETIME, 
	CONSTRAINT pk_api_keys PRIMARY KEY (id)
);
INSERT INTO "api_keys" VALUES('9f0966826ff1','ci','c51608d7cc76ba4ea81902b4095bff0d10a2315a114d6e86d0ebcf240da674ff','["read"]',NULL,'2026-11-20 12:01:13.000000',NULL,NULL);
CREATE TABLE deliveries (
	number INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	import_id VARCHAR(64) NOT NULL, 
	event VARCHAR(32) NOT NULL, 
	url TEXT NOT NULL, 
	endpoint TEXT NOT NULL, 
	body TEXT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	generation INTEGER NOT NULL, 
	attempts INTEGER NOT NULL, 
	created_at DATETIME NOT NULL, 
	next_at DATETIME, 
	claimed_until DATETIME, 
	ended_at DATETIME, 
	http_status INTEGER, 
	error TEXT, 
	CONSTRAINT pk_deliveries PRIMARY KEY (number), 
	CONSTRAINT fk_deliveries_import_id_imports FOREIGN KEY(import_id) REFERENCES imports (id) ON DELETE CASCADE, 
	CONSTRAINT uq_deliveries_id UNIQUE (id)
);
INSERT INTO "deliveries" VALUES(1,'msg_e9421e6a122954c08c5aa303679e2b7e','running','import.submitted','http://127.0.0.1:9/hook','http://127.0.0.1:9/hook','{"specversion": "1.0", "id": "msg_e9421e6a122954c08c5aa303679e2b7e", "source": "/ims-import", "type": "import.submitted", "subject": "running", "time": "2026-11-20T12:00:29Z", "datacontenttype": "application/json", "data": {"id": "running", "key": "key-running", "state": "RUNNING", "reason": null, "overdue": false, "cloud": null, "project": "p", "kind": "system", "name": "running", "image_url": "images:ubuntu.qcow2", "job_id": "job-running", "image_id": null, "progress": {"percent": null, "source": null, "eta_s": null}, "error": null, "attempts": 1, "polls": 0, "created_at": "2026-11-20T12:00:23Z", "submitted_at": "2026-11-20T12:00:28Z", "finished_at": null, "requested_by": "previous", "request": {"name": "running", "image_url": "images:ubuntu.qcow2", "min_disk": 40, "webhook_url": "http://127.0.0.1:9/hook", "kind": "system"}, "image": null}}','pending',0,0,'2026-11-20 12:00:29.000000','2026-11-20 12:00:29.000000',NULL,NULL,NULL,NULL);
CREATE TABLE events (
	id INTEGER NOT NULL, 
	import_id VARCHAR(64) NOT NULL, 
	at DATETIME NOT NULL, 
	kind VARCHAR(32) NOT NULL, 
	from_state VARCHAR(16), 
	to_state VARCHAR(16), 
	reason TEXT, 
	facts JSON NOT NULL, 
	CONSTRAINT pk_events PRIMARY KEY (id), 
	CONSTRAINT fk_events_import_id_imports FOREIGN KEY(import_id) REFERENCES imports (id) ON DELETE CASCADE
);
INSERT INTO "events" VALUES(1,'queued','2026-11-20 12:00:02.000000','transition',NULL,'QUEUED',NULL,'{}');
INSERT INTO "events" VALUES(2,'waiting-slot','2026-11-20 12:00:04.000000','transition',NULL,'QUEUED',NULL,'{}');
INSERT INTO "events" VALUES(3,'waiting-slot','2026-11-20 12:00:06.000000','transition','QUEUED','WAITING','0 of 0 IMS jobs active in project p, 1st in line','{"project": "p", "error": null, "waits_for": "slot"}');
INSERT INTO "events" VALUES(4,'waiting-credentials','2026-11-20 12:00:08.000000','transition',NULL,'QUEUED',NULL,'{}');
INSERT INTO "events" VALUES(5,'waiting-credentials','2026-11-20 12:00:10.000000','transition','QUEUED','WAITING','IAM.0062: The username or password is wrong.','{"waits_for": "credentials", "error": {"code": "IAM.0062", "message": "The username or password is wrong.", "class": "auth", "hint": "Correct the password.", "http_status": 401, "request_id": "r-1"}}');
INSERT INTO "events" VALUES(6,'submitting','2026-11-20 12:00:12.000000','transition',NULL,'QUEUED',NULL,'{}');
INSERT INTO "events" VALUES(7,'submitting','2026-11-20 12:00:15.000000','transition','QUEUED','SUBMITTING',NULL,'{"project": "p", "error": null, "attempts": 1, "attempted_at": "2026-11-20T12:00:13+00:00"}');
INSERT INTO "events" VALUES(8,'uncertain','2026-11-20 12:00:17.000000','transition',NULL,'QUEUED',NULL,'{}');
INSERT INTO "events" VALUES(9,'uncertain','2026-11-20 12:00:20.000000','transition','QUEUED','SUBMITTING',NULL,'{"project": "p", "error": null, "attempts": 1, "attempted_at": "2026-11-20T12:00:18+00:00"}');
INSERT INTO "events" VALUES(10,'uncertain','2026-11-20 12:00:22.000000','transition','SUBMITTING','UNCERTAIN','the answer to the request was lost: HTTP.504','{}');
INSERT INTO "events" VALUES(11,'running','2026-11-20 12:00:24.000000','transition',NULL,'QUEUED',NULL,'{}');
INSERT INTO "events" VALUES(12,'running','2026-11-20 12:00:27.000000','transition','QUEUED','SUBMITTING',NULL,'{"project": "p", "error": null, "attempts": 1, "attempted_at": "2026-11-20T12:00:25+00:00"}');
INSERT INTO "events" VALUES(13,'running','2026-11-20 12:00:29.000000','transition','SUBMITTING','RUNNING',NULL,'{"job_id": "job-running"}');
INSERT INTO "events" VALUES(14,'verifying','2026-11-20 12:00:31.000000','transition',NULL,'QUEUED',NULL,'{}');
INSERT INTO "events" VALUES(15,'verifying','2026-11-20 12:00:34.000000','transition','QUEUED','SUBMITTING',NULL,'{"project": "p", "error": null, "attempts": 1, "attempted_at": "2026-11-20T12:00:32+00:00"}');
INSERT INTO "events" VALUES(16,'verifying','2026-11-20 12:00:36.000000','transition','SUBMITTING','RUNNING',NULL,'{"job_id": "job-verifying"}');
INSERT INTO "events" VALUES(17,'verifying','2026-11-20 12:00:38.000000','transition','RUNNING','VERIFYING',NULL,'{"image_id": "image-verifying"}');
INSERT INTO "events" VALUES(18,'succeeded','2026-11-20 12:00:40.000000','transition',NULL,'QUEUED',NULL,'{}');
INSERT INTO "events" VALUES(19,'succeeded','2026-11-20 12:00:43.000000','transition','QUEUED','SUBMITTING',NULL,'{"project": "p", "error": null, "attempts": 1, "attempted_at": "2026-11-20T12:00:41+00:00"}');
INSERT INTO "events" VALUES(20,'succeeded','2026-11-20 12:00:45.000000','transition','SUBMITTING','RUNNING',NULL,'{"job_id": "job-s"}');
INSERT INTO "events" VALUES(21,'succeeded','2026-11-20 12:00:47.000000','transition','RUNNING','VERIFYING',NULL,'{"image_id": "image-s"}');
INSERT INTO "events" VALUES(22,'succeeded','2026-11-20 12:00:49.000000','transition','VERIFYING','SUCCEEDED',NULL,'{"image": {"id": "image-s", "name": "succeeded", "status": "active", "min_disk": 40, "os_type": null, "os_version": null, "disk_format": null, "size_bytes": null, "created_at": null, "data_origin": null, "tags": []}}');
INSERT INTO "events" VALUES(23,'failed','2026-11-20 12:00:52.000000','transition',NULL,'QUEUED',NULL,'{}');
INSERT INTO "events" VALUES(24,'failed','2026-11-20 12:00:55.000000','transition','QUEUED','SUBMITTING',NULL,'{"project": "p", "error": null, "attempts": 1, "attempted_at": "2026-11-20T12:00:53+00:00"}');
INSERT INTO "events" VALUES(25,'failed','2026-11-20 12:00:57.000000','transition','SUBMITTING','RUNNING',NULL,'{"job_id": "job-f"}');
INSERT INTO "events" VALUES(26,'failed','2026-11-20 12:00:59.000000','transition','RUNNING','FAILED','IMG.0057: The image file is empty.','{"error": {"code": "IMG.0057", "message": "The image file is empty.", "class": "permanent", "hint": "Check the file.", "http_status": null, "request_id": null}}');
INSERT INTO "events" VALUES(27,'canceled','2026-11-20 12:01:02.000000','transition',NULL,'QUEUED',NULL,'{}');
INSERT INTO "events" VALUES(28,'canceled','2026-11-20 12:01:04.000000','transition','QUEUED','CANCELED','canceled by me','{}');
INSERT INTO "events" VALUES(29,'df60b6d2-9738-4c2a-bf47-d80b2032dffc','2026-11-20 12:01:08.000000','transition',NULL,'RUNNING','job job-adopted adopted','{"job_id": "job-adopted"}');
INSERT INTO "events" VALUES(30,'waiting-person','2026-11-20 12:01:10.000000','transition',NULL,'QUEUED',NULL,'{}');
INSERT INTO "events" VALUES(31,'waiting-person','2026-11-20 12:01:12.000000','transition','QUEUED','WAITING','IMG.0015: The quota is used up.','{"waits_for": "person", "error": {"code": "IMG.0015", "message": "The quota is used up.", "class": "hold", "hint": "Delete images.", "http_status": 400, "request_id": null}}');
CREATE TABLE imports (
	id VARCHAR(64) NOT NULL, 
	"key" VARCHAR(255), 
	state VARCHAR(16) NOT NULL, 
	reason TEXT, 
	overdue BOOLEAN NOT NULL, 
	cloud VARCHAR(64), 
	project VARCHAR(64), 
	kind VARCHAR(16) NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	image_url TEXT NOT NULL, 
	job_id VARCHAR(64), 
	image_id VARCHAR(64), 
	error JSON, 
	image JSON, 
	attempts INTEGER NOT NULL, 
	polls INTEGER NOT NULL, 
	created_at DATETIME NOT NULL, 
	updated_at DATETIME NOT NULL, 
	submitted_at DATETIME, 
	finished_at DATETIME, 
	reported_at DATETIME, 
	requested_by VARCHAR(255), 
	request JSON NOT NULL, 
	canvas TEXT, 
	version INTEGER NOT NULL, priority INTEGER DEFAULT '0' NOT NULL, waits_for VARCHAR(16), cancel VARCHAR(8), attempted_at DATETIME, 
	CONSTRAINT pk_imports PRIMARY KEY (id), 
	CONSTRAINT uq_imports_key UNIQUE ("key")
);
INSERT INTO "imports" VALUES('queued','key-queued','QUEUED',NULL,0,NULL,NULL,'system','queued','images:ubuntu.qcow2',NULL,NULL,NULL,NULL,0,0,'2026-11-20 12:00:01.000000','2026-11-20 12:00:01.000000',NULL,NULL,NULL,'previous','{"name": "queued", "image_url": "images:ubuntu.qcow2", "min_disk": 40, "kind": "system"}',NULL,0,0,NULL,NULL,NULL);
INSERT INTO "imports" VALUES('waiting-slot','key-waiting-slot','WAITING','0 of 0 IMS jobs active in project p, 1st in line',0,NULL,'p','system','waiting-slot','images:ubuntu.qcow2',NULL,NULL,NULL,NULL,0,0,'2026-11-20 12:00:03.000000','2026-11-20 12:00:05.000000',NULL,NULL,NULL,'previous','{"name": "waiting-slot", "image_url": "images:ubuntu.qcow2", "min_disk": 40, "priority": "high", "kind": "system"}',NULL,1,1,'slot',NULL,NULL);
INSERT INTO "imports" VALUES('waiting-credentials','key-waiting-credentials','WAITING','IAM.0062: The username or password is wrong.',0,NULL,NULL,'system','waiting-credentials','images:ubuntu.qcow2',NULL,NULL,'{"code": "IAM.0062", "message": "The username or password is wrong.", "class": "auth", "hint": "Correct the password.", "http_status": 401, "request_id": "r-1"}',NULL,0,0,'2026-11-20 12:00:07.000000','2026-11-20 12:00:09.000000',NULL,NULL,NULL,'previous','{"name": "waiting-credentials", "image_url": "images:ubuntu.qcow2", "min_disk": 40, "kind": "system"}',NULL,1,0,'credentials',NULL,NULL);
INSERT INTO "imports" VALUES('submitting','key-submitting','SUBMITTING',NULL,0,NULL,'p','system','submitting','images:ubuntu.qcow2',NULL,NULL,NULL,NULL,1,0,'2026-11-20 12:00:11.000000','2026-11-20 12:00:14.000000',NULL,NULL,NULL,'previous','{"name": "submitting", "image_url": "images:ubuntu.qcow2", "min_disk": 40, "kind": "system"}',NULL,1,0,NULL,NULL,'2026-11-20 12:00:13.000000');
INSERT INTO "imports" VALUES('uncertain','key-uncertain','UNCERTAIN','the answer to the request was lost: HTTP.504',0,NULL,'p','system','uncertain','images:ubuntu.qcow2',NULL,NULL,NULL,NULL,1,0,'2026-11-20 12:00:16.000000','2026-11-20 12:00:21.000000',NULL,NULL,NULL,'previous','{"name": "uncertain", "image_url": "images:ubuntu.qcow2", "min_disk": 40, "kind": "system"}','{"task": "ims.poll_import", "args": [], "kwargs": {}, "options": {"task_id": "uncertain", "queue": "ims.poll"}, "subtask_type": null, "immutable": false}',2,0,NULL,NULL,'2026-11-20 12:00:18.000000');
INSERT INTO "imports" VALUES('running','key-running','RUNNING',NULL,0,NULL,'p','system','running','images:ubuntu.qcow2','job-running',NULL,NULL,NULL,1,0,'2026-11-20 12:00:23.000000','2026-11-20 12:00:28.000000','2026-11-20 12:00:28.000000',NULL,NULL,'previous','{"name": "running", "image_url": "images:ubuntu.qcow2", "min_disk": 40, "webhook_url": "http://127.0.0.1:9/hook", "kind": "system"}',NULL,2,0,NULL,NULL,'2026-11-20 12:00:25.000000');
INSERT INTO "imports" VALUES('verifying','key-verifying','VERIFYING',NULL,0,NULL,'p','system','verifying','images:ubuntu.qcow2','job-verifying','image-verifying',NULL,NULL,1,0,'2026-11-20 12:00:30.000000','2026-11-20 12:00:37.000000','2026-11-20 12:00:35.000000',NULL,NULL,'previous','{"name": "verifying", "image_url": "images:ubuntu.qcow2", "min_disk": 40, "kind": "system"}',NULL,3,0,NULL,NULL,'2026-11-20 12:00:32.000000');
INSERT INTO "imports" VALUES('succeeded','key-succeeded','SUCCEEDED',NULL,0,NULL,'p','system','succeeded','images:ubuntu.qcow2','job-s','image-s',NULL,'{"id": "image-s", "name": "succeeded", "status": "active", "min_disk": 40, "os_type": null, "os_version": null, "disk_format": null, "size_bytes": null, "created_at": null, "data_origin": null, "tags": []}',1,0,'2026-11-20 12:00:39.000000','2026-11-20 12:00:48.000000','2026-11-20 12:00:44.000000','2026-11-20 12:00:48.000000','2026-11-20 12:00:50.000000','previous','{"name": "succeeded", "image_url": "images:ubuntu.qcow2", "min_disk": 40, "kind": "system"}',NULL,4,0,NULL,NULL,'2026-11-20 12:00:41.000000');
INSERT INTO "imports" VALUES('failed','key-failed','FAILED','IMG.0057: The image file is empty.',0,NULL,'p','system','failed','images:ubuntu.qcow2','job-f',NULL,'{"code": "IMG.0057", "message": "The image file is empty.", "class": "permanent", "hint": "Check the file.", "http_status": null, "request_id": null}',NULL,1,0,'2026-11-20 12:00:51.000000','2026-11-20 12:00:58.000000','2026-11-20 12:00:56.000000','2026-11-20 12:00:58.000000','2026-11-20 12:01:00.000000','previous','{"name": "failed", "image_url": "images:ubuntu.qcow2", "min_disk": 40, "kind": "system"}',NULL,3,0,NULL,NULL,'2026-11-20 12:00:53.000000');
INSERT INTO "imports" VALUES('canceled','key-canceled','CANCELED','canceled by me',0,NULL,NULL,'system','canceled','images:ubuntu.qcow2',NULL,NULL,NULL,NULL,0,0,'2026-11-20 12:01:01.000000','2026-11-20 12:01:03.000000',NULL,'2026-11-20 12:01:03.000000','2026-11-20 12:01:05.000000','previous','{"name": "canceled", "image_url": "images:ubuntu.qcow2", "min_disk": 40, "kind": "system"}',NULL,1,0,NULL,NULL,NULL);
INSERT INTO "imports" VALUES('df60b6d2-9738-4c2a-bf47-d80b2032dffc','job:job-adopted','RUNNING',NULL,0,NULL,NULL,'system','adopted','unknown:adopted','job-adopted',NULL,NULL,NULL,0,0,'2026-11-20 12:01:07.000000','2026-11-20 12:01:07.000000','2026-11-20 12:01:06.000000',NULL,NULL,'me','{"name": "adopted", "image_url": "unknown:adopted", "min_disk": 1, "kind": "system"}',NULL,0,0,NULL,NULL,NULL);
INSERT INTO "imports" VALUES('waiting-person','key-waiting-person','WAITING','IMG.0015: The quota is used up.',0,NULL,NULL,'system','waiting-person','images:ubuntu.qcow2',NULL,NULL,'{"code": "IMG.0015", "message": "The quota is used up.", "class": "hold", "hint": "Delete images.", "http_status": 400, "request_id": null}',NULL,0,0,'2026-11-20 12:01:09.000000','2026-11-20 12:01:11.000000',NULL,NULL,NULL,'previous','{"name": "waiting-person", "image_url": "images:ubuntu.qcow2", "min_disk": 40, "kind": "system"}',NULL,1,0,'person',NULL,NULL);
CREATE TABLE watched (
	rule VARCHAR(64) NOT NULL, 
	image_url VARCHAR(1200) NOT NULL, 
	etag VARCHAR(128) NOT NULL, 
	import_id VARCHAR(64) NOT NULL, 
	at DATETIME NOT NULL, 
	CONSTRAINT pk_watched PRIMARY KEY (rule, image_url)
);
CREATE TABLE webhook_secrets (
	endpoint VARCHAR(2048) NOT NULL, 
	generation INTEGER NOT NULL, 
	rotated_at DATETIME NOT NULL, 
	CONSTRAINT pk_webhook_secrets PRIMARY KEY (endpoint)
);
CREATE TABLE webhooks (
	id VARCHAR(32) NOT NULL, 
	url TEXT NOT NULL, 
	events JSON, 
	clouds JSON, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_webhooks PRIMARY KEY (id)
);
INSERT INTO "webhooks" VALUES('0f4880481160','https://hooks.example/images','["import.failed"]',NULL,'2026-11-20 12:01:14.000000');
CREATE INDEX ix_imports_cloud ON imports (cloud);
CREATE INDEX ix_imports_created_at_id ON imports (created_at, id);
CREATE INDEX ix_imports_name ON imports (name);
CREATE INDEX ix_imports_project_state ON imports (project, state);
CREATE INDEX ix_imports_reported_at_id ON imports (reported_at, id);
CREATE INDEX ix_events_import_id_id ON events (import_id, id);
CREATE INDEX ix_deliveries_import_id_number ON deliveries (import_id, number);
CREATE INDEX ix_deliveries_state_next_at ON deliveries (state, next_at);
COMMIT;
