BEGIN TRANSACTION;
CREATE TABLE cluster (
	name VARCHAR NOT NULL, 
	host VARCHAR NOT NULL, 
	network VARCHAR NOT NULL, 
	spec VARCHAR NOT NULL, 
	secret BLOB NOT NULL, 
	created VARCHAR NOT NULL, 
	generation INTEGER DEFAULT '0' NOT NULL, 
	context VARCHAR DEFAULT '' NOT NULL, 
	images VARCHAR DEFAULT '{}' NOT NULL, 
	owner VARCHAR DEFAULT '' NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "cluster" VALUES('demo','lab','10.7.0.0/24','{
 "cluster": "demo",
 "network": "10.7.0.0/24",
 "roles": {
  "head": {
   "image": "worker",
   "cpu": {
    "guarantee": 0.5,
    "limit": 1
   },
   "memory": "512M",
   "network": {
    "guarantee": "20Mbit",
    "limit": "100Mbit"
   },
   "ssh_to": [
    "worker"
   ]
  },
  "worker": {
   "count": 2,
   "image": "worker",
   "cpu": {
    "guarantee": 0.5,
    "limit": 2
   },
   "memory": "1G",
   "network": {
    "guarantee": "20Mbit",
    "limit": "100Mbit"
   }
  }
 }
}',X'34D3DB5E83BEA1F96C6453269A487CC7DC6E18EAD21EC64FA394BCD05FC7E6C1','2026-11-25T17:14:25+00:00',1,'49c23f9cb08015d56b7d60cd5b47b3bb6d3e7302848d8efe2a12da5cdcc312b9','{"head": "1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f", "worker": "1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f"}','');
CREATE TABLE event (
	number INTEGER NOT NULL, 
	cluster VARCHAR NOT NULL, 
	time VARCHAR NOT NULL, 
	node VARCHAR NOT NULL, 
	what VARCHAR NOT NULL, 
	PRIMARY KEY (number)
);
INSERT INTO "event" VALUES(1,'demo','2026-11-25T17:14:25.633+00:00','','generation 1: head 1, worker 2');
INSERT INTO "event" VALUES(2,'demo','2026-11-25T17:14:25.696+00:00','head-1','healthy');
INSERT INTO "event" VALUES(3,'demo','2026-11-25T17:14:25.696+00:00','worker-1','healthy');
INSERT INTO "event" VALUES(4,'demo','2026-11-25T17:14:25.696+00:00','worker-2','healthy');
CREATE TABLE holding (
	number INTEGER NOT NULL, 
	time VARCHAR NOT NULL, 
	cluster VARCHAR NOT NULL, 
	owner VARCHAR NOT NULL, 
	node VARCHAR NOT NULL, 
	cpu BIGINT NOT NULL, 
	memory BIGINT NOT NULL, 
	network BIGINT NOT NULL, 
	disk BIGINT NOT NULL, 
	PRIMARY KEY (number)
);
INSERT INTO "holding" VALUES(1,'2026-11-25T17:14:25.634426+00:00','demo','','head-1',500,536870912,20000000,4294967296);
INSERT INTO "holding" VALUES(2,'2026-11-25T17:14:25.634434+00:00','demo','','worker-1',500,1073741824,20000000,4294967296);
INSERT INTO "holding" VALUES(3,'2026-11-25T17:14:25.634435+00:00','demo','','worker-2',500,1073741824,20000000,4294967296);
CREATE TABLE host (
	name VARCHAR NOT NULL, 
	told VARCHAR NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "host" VALUES('lab','{"name": "lab", "kind": "libvirt", "uri": "qemu+unix:///system?socket=/nonexistent/run/lab/libvirt-sock", "folder": "/nonexistent", "run": "/nonexistent", "netns": "phx-lab", "cpu": 3600, "memory": 7516192768, "network": 1000000000, "accelerator": "qemu", "partition": "/phx-lab", "catalog": "/nonexistent/images", "ssh": "", "driver": "qemu", "cpus": "", "cgroup": 1, "offers": []}');
CREATE TABLE meter (
	cluster VARCHAR NOT NULL, 
	node VARCHAR NOT NULL, 
	run BIGINT NOT NULL, 
	cpu BIGINT, 
	received BIGINT, 
	sent BIGINT, 
	read BIGINT, 
	written BIGINT, 
	waited BIGINT, 
	PRIMARY KEY (cluster, node)
);
CREATE TABLE node (
	cluster VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	role VARCHAR NOT NULL, 
	address VARCHAR NOT NULL, 
	stage VARCHAR NOT NULL, 
	boot VARCHAR NOT NULL, 
	uptime FLOAT NOT NULL, 
	message VARCHAR NOT NULL, 
	context VARCHAR DEFAULT '' NOT NULL, 
	PRIMARY KEY (cluster, name)
);
INSERT INTO "node" VALUES('demo','head-1','head','10.7.0.1','healthy','b',2.0,'','1b8209894780db821e26c9478326b2ad81ba12ed3794125d01bb581e8cdb90b2');
INSERT INTO "node" VALUES('demo','worker-1','worker','10.7.0.2','healthy','b',2.0,'','8ffbd04fd2c54ec97e69b0dbbe734be7fd85265738b4e4e6a34418e515a6abe4');
INSERT INTO "node" VALUES('demo','worker-2','worker','10.7.0.3','healthy','b',2.0,'','f1c51c2d1d9b649c15162606c91a7e7652f2980daec93f7cb23d1faecf0c401a');
CREATE TABLE schema (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema" VALUES(4);
CREATE TABLE used (
	cluster VARCHAR NOT NULL, 
	owner VARCHAR NOT NULL, 
	node VARCHAR NOT NULL, 
	hour VARCHAR NOT NULL, 
	cpu BIGINT NOT NULL, 
	received BIGINT NOT NULL, 
	sent BIGINT NOT NULL, 
	read BIGINT NOT NULL, 
	written BIGINT NOT NULL, 
	PRIMARY KEY (cluster, owner, node, hour)
);
CREATE INDEX ix_holding_cluster ON holding (cluster);
COMMIT;
