// Preloaded into the suite's origin, which would listen on every interface: it configures itself by what anybody sends.
'use strict';
const { Server } = require('net');

const { listen } = Server.prototype;
Server.prototype.listen = function (port, ...rest) {
  return listen.call(this, port, '127.0.0.1', ...rest);
};
