const { probe } = require('./probe.cjs');

probe().then(console.log);
